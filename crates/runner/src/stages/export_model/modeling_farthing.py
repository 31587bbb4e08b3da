"""A model of farthing, for `transformers`: the forward pass in torch, with keys and values kept while it generates.

`config.json` has every number that the code asks for. With norm(x) = x / rms(x), a layer is

    x = resid_lambda * x + x0_lambda * x0
    x = x + attention(norm(x))
    x = x + mlp(norm(x))

Shapes: B texts, T new tokens, S tokens in all, C channels, H query heads, K key and value heads, D channels of a head, V entries.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

EPS = 1.1920928955078125e-07  # of f32
# transformers 5 renames the keys and values that a model hands back.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class FarthingConfig(PretrainedConfig):
    model_type = "farthing"
    attribute_map = {
        "hidden_size": "model_dim",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "max_position_embeddings": "seq_len",
        "intermediate_size": "mlp_dim",
    }

    # A class whose fields are annotated would be made a dataclass, and the file's own keys refused.
    def __init__(self, **kwargs):
        numbers = dict(depth=1, model_dim=64, head_dim=64, heads=1, kv_heads=1, vocab_size=64, padded_vocab=64, seq_len=64)
        numbers |= dict(windows=[64], rope_base=10_000.0, rotary_dim=64, qk_gain=1.0, mlp="relu2", mlp_dim=256)
        numbers |= dict(value_embed_layers=[], ve_gate_channels=1, ve_gate_max=1.0, smear=False, smear_channels=1)
        numbers |= dict(backout=False, backout_layer=0, logit_softcap=15.0)
        for name, value in numbers.items():
            setattr(self, name, kwargs.pop(name, value))
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


def norm(x):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotary(config, positions, dtype):
    """Cosine and sine of each pair's angle, (T, D/2): the first `rotary_dim` / 2 pairs turn, the others stay."""
    pairs, turned = config.head_dim // 2, config.rotary_dim // 2
    rates = torch.zeros(pairs, dtype=torch.float64)
    rates[:turned] = config.rope_base ** (-torch.arange(turned, dtype=torch.float64) / max(turned, 1))
    # Not every device has f64.
    angles = torch.arange(positions.start, positions.stop, dtype=torch.float64)[:, None] * rates
    return angles.cos().to(dtype), angles.sin().to(dtype)


def turn(x, cos, sin):
    """Channel j of a head and channel j + D/2 are a pair, turned by minus its angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class Attention(nn.Module):
    def __init__(self, config, i):
        super().__init__()
        self.config, self.i = config, i
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.c_q = linear(config.model_dim, queries)
        self.c_k = linear(config.model_dim, keys)
        self.c_v = linear(config.model_dim, keys)
        self.c_proj = linear(queries, config.model_dim)
        if i in config.value_embed_layers:
            self.ve_gate = linear(config.ve_gate_channels, config.kv_heads)

    def forward(self, x, value, cos_sin, mask, cache):
        """x (B, T, C), value (B, T, K·D) or None, mask (B or 1, 1, T, S), true where a token is seen."""
        config, heads = self.config, (*x.shape[:2], -1, self.config.head_dim)
        q, k, v = (project(x).view(heads) for project in (self.c_q, self.c_k, self.c_v))
        if value is not None:
            gate = config.ve_gate_max * torch.sigmoid(self.ve_gate(x[..., : config.ve_gate_channels]))
            v = v + gate[..., None] * value.view(heads)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = (config.qk_gain * norm(turn(each, *cos_sin)) for each in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.i)
        shared = config.heads // config.kv_heads
        k, v = (each.repeat_interleave(shared, 1) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.c_proj(y.transpose(1, 2).reshape(*x.shape[:2], -1))


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.mlp == "swiglu":
            self.c_gate = linear(config.model_dim, config.mlp_dim)
        self.c_fc = linear(config.model_dim, config.mlp_dim)
        self.c_proj = linear(config.mlp_dim, config.model_dim)

    def forward(self, x):
        h = self.c_fc(x)
        h = F.silu(self.c_gate(x)) * h if hasattr(self, "c_gate") else F.relu(h).square()
        return self.c_proj(h)


class Block(nn.Module):
    def __init__(self, config, i):
        super().__init__()
        self.attn = Attention(config, i)
        self.mlp = Mlp(config)

    def forward(self, x, value, cos_sin, mask, cache):
        x = x + self.attn(norm(x), value, cos_sin, mask, cache)
        return x + self.mlp(norm(x))


class FarthingForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = FarthingConfig
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        layers = range(config.depth)
        keys = config.kv_heads * config.head_dim
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.padded_vocab, config.model_dim),
                "h": nn.ModuleList(Block(config, i) for i in layers),
            }
        )
        tables = {str(i): nn.Embedding(config.padded_vocab, keys) for i in config.value_embed_layers}
        self.value_embeds = nn.ModuleDict(tables)
        self.lm_head = linear(config.model_dim, config.padded_vocab)
        self.resid_lambdas = nn.Parameter(torch.ones(config.depth))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.depth))
        if config.smear:
            self.smear_gate = linear(config.smear_channels, 1)
            self.smear_lambda = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.post_init()

    def get_input_embeddings(self):
        return self.transformer["wte"]

    def get_output_embeddings(self):
        return self.lm_head

    def prepare_inputs_for_generation(self, input_ids, *args, **kwargs):
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        new = inputs["input_ids"].shape[1]
        # What smear takes from the token before the first new one.
        inputs["previous_ids"] = input_ids[:, -new - 1 : -new] if new < input_ids.shape[1] else None
        return inputs

    def forward(
        self,
        input_ids,
        attention_mask=None,
        cache=None,
        past_key_values=None,
        previous_ids=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        return_dict=None,
        **kwargs,
    ):
        """input_ids (B, T), previous_ids (B, 1) where a text goes on, attention_mask (B, S), 0 where there is no token."""
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("value embeddings are of ids: give `input_ids`, not `inputs_embeds`")
        config, (_, new) = self.config, input_ids.shape
        cache = cache if cache is not None else past_key_values
        if cache is None and use_cache:
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        device, dtype = input_ids.device, self.lm_head.weight.dtype
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"`attention_mask` has {attention_mask.dim()} dimensions, expected (texts, tokens)")

        x = norm(self.transformer["wte"](input_ids))
        if config.smear:
            x = self.smear(x, previous_ids, attention_mask, past)
        x0, middle = x, None
        cos_sin = [table.to(device) for table in rotary(config, range(past, past + new), dtype)]
        back = torch.arange(past, past + new, device=device)[:, None] - torch.arange(past + new, device=device)
        masks = {window: self.mask(back, window, attention_mask) for window in set(config.windows)}
        for i, block in enumerate(self.transformer["h"]):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            value = self.value_embeds[str(i)](input_ids) if i in config.value_embed_layers else None
            x = block(x, value, cos_sin, masks[config.windows[i]], cache)
            if i == config.backout_layer:
                middle = x
        if config.backout:
            x = x - self.backout_lambda * middle
        x = norm(x)
        x = x[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else x[:, logits_to_keep]
        logits = self.lm_head(x)[..., : config.vocab_size].float()
        logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)

        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})
        return output.to_tuple() if return_dict is False else output

    def smear(self, x, previous_ids, attention_mask, past):
        """x_t + smear_lambda · sigmoid(gate(x_t)) · x_{t−1}: a text's first token has none before it."""
        if past == 0:
            before = torch.zeros_like(x[:, :1])
        elif previous_ids is None:
            raise ValueError("a text that goes on needs `previous_ids`, (texts, 1): the token before `input_ids`")
        else:
            before = norm(self.transformer["wte"](previous_ids))
        before = torch.cat([before, x[:, :-1]], 1)
        if attention_mask is not None:
            there = F.pad(attention_mask, (1, 0))[:, past : past + x.shape[1]]
            before = before * there[..., None].to(x.dtype)
        gate = self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., : self.config.smear_channels]))
        return x + gate * before

    @staticmethod
    def mask(back, window, attention_mask):
        """A token sees itself and up to `window` before it, but no padding."""
        seen = ((back >= 0) & (back <= window))[None, None]
        if attention_mask is None:
            return seen
        # Padding sees itself, so that its rows are numbers.
        return seen & (attention_mask[:, None, None, :].bool() | (back == 0))
