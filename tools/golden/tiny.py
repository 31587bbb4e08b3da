"""A pipeline that trains a tiny model on the embedded world, for the scripts that look at what becomes of it."""


def pipeline(tokenizer, row_tokens, model, steps):
    """Its text. `tokenizer` is a number of entries, or the path of one that exists; `model` the keys of its table."""
    if isinstance(tokenizer, int):
        tokenizer = f'uses       = "train-bpe"\ninputs     = {{ text = "fetch.train" }}\nvocab_size = {tokenizer}'
    else:
        tokenizer = f'uses = "use-tokenizer"\npath = "{tokenizer}"'
    return f"""
[pipeline]
name   = "check"
format = 1
seed   = 7
[stage.fetch]
uses   = "fetch-parquet"
source = "embedded://world"
world  = {{ train_shards = 1, documents_per_shard = 400, val_documents = 60 }}
[stage.tokenizer]
{tokenizer}
[stage.pack]
uses       = "pack-bestfit"
inputs     = {{ train = "fetch.train", val = "fetch.val", bpe = "tokenizer.bpe" }}
row_tokens = {row_tokens}
[stage.train]
uses     = "train-gpt"
inputs   = {{ train = "pack.train", val = "pack.val", bpe = "tokenizer.bpe" }}
schedule = {{ batch_tokens = 1_024, steps = {steps} }}
evaluate = {{ tokens = 1_024 }}
[stage.train.model]
{model}
"""
