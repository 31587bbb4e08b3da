//! Checkpoints: what is written comes back, and whatever is wrong with a file is said.

use crate::common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{BOTH, Model, Tokens, config, variants};
use farthing_base::Hint;
use farthing_base::tensors::{Dtype, TensorError, TensorFile, TensorInfo, TensorWriter};
use farthing_kernels::reference::Reference;
use farthing_kernels::{DType, Device, Params};
use farthing_model::{
    Checkpoint, Error, Extra, Gpt, GptConfig, Layout, Preset, STATE_PREFIX, load_model,
    load_weights, save_model,
};

const DEV: &Reference = &Reference;

fn model(preset: Preset) -> Model<'static> {
    Model::new(DEV, config(preset, 16), 1, 16)
}

fn save(model: &Model<'_>, path: &Path) {
    let weights = model.params.weights();
    save_model(path, &model.gpt, DEV, weights, 7, &[], &BTreeMap::new()).unwrap();
}

fn in_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    (folder, path)
}

/// What opening and loading a file fails with, into a model of its own configuration or another.
fn failure(path: &Path, gpt: Option<&Gpt>) -> Error {
    let load = || -> Result<(), Error> {
        let checkpoint = Checkpoint::open(path)?;
        let own = Gpt::new(checkpoint.config().clone())?;
        let gpt = gpt.unwrap_or(&own);
        let mut params = Params::new(DEV, gpt.single_group())?;
        checkpoint.load(gpt, DEV, &mut params)
    };
    load().unwrap_err()
}

#[test]
fn a_model_comes_back_from_its_file_alone() {
    for config in BOTH.map(|preset| config(preset, 16)).into_iter().chain(variants(16)) {
        let (_folder, path) = in_folder();
        let mut before = Model::new(DEV, config, 1, 16);
        save(&before, &path);
        let (gpt, params) = load_model(&path, DEV).unwrap();
        assert_eq!(gpt, before.gpt);
        for (i, spec) in gpt.params().iter().enumerate() {
            let after = read(&params, spec.id);
            assert_eq!(after, before.weight(i), "{}", spec.name);
        }
        let tokens = Tokens::new(1, 16, 2);
        let expected = before.loss(&tokens.batch());
        before.params = params;
        assert_eq!(before.loss(&tokens.batch()), expected);
        assert_eq!(Checkpoint::open(&path).unwrap().step(), 7);
    }
}

fn read(params: &Params, id: farthing_kernels::ParamId) -> Vec<f64> {
    let dev: &dyn Device = DEV;
    dev.read_f64(params.weights().master(id).unwrap()).unwrap()
}

#[test]
fn state_and_metadata_come_back_with_the_weights() {
    let (_folder, path) = in_folder();
    let model = model(Preset::Nanochat202607);
    let dev: &dyn Device = DEV;
    let mut moment = dev.master([2, 3]).unwrap();
    dev.write_f64(moment.view_mut(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let extra = [Extra { name: "state.adamw.m".into(), tensor: moment.view() }];
    let metadata = BTreeMap::from([("trainer.seed".to_owned(), "1337 \"quoted\" é".to_owned())]);
    save_model(&path, &model.gpt, DEV, model.params.weights(), 9, &extra, &metadata).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.state_names(), ["state.adamw.m"]);
    assert_eq!(checkpoint.metadata("trainer.seed"), Some("1337 \"quoted\" é"));
    let mut back = dev.master([2, 3]).unwrap();
    checkpoint.load_state("state.adamw.m", DEV, back.view_mut()).unwrap();
    assert_eq!(dev.read_f64(back.view()).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut params = Params::new(DEV, model.gpt.single_group()).unwrap();
    checkpoint.load(&model.gpt, DEV, &mut params).unwrap();

    let missing = checkpoint.load_state("state.adamw.v", DEV, back.view_mut()).unwrap_err();
    assert!(
        matches!(&missing, Error::File(TensorError::Missing { name, .. }) if name == "state.adamw.v"),
        "{missing}"
    );
    let badly_named = [Extra { name: "adamw.m".into(), tensor: back.view() }];
    let refused =
        save_model(&path, &model.gpt, DEV, model.params.weights(), 9, &badly_named, &metadata);
    assert!(matches!(refused, Err(Error::File(TensorError::Write { .. }))));
    let reserved = BTreeMap::from([("farthing.step".to_owned(), "3".to_owned())]);
    let refused = save_model(&path, &model.gpt, DEV, model.params.weights(), 9, &[], &reserved);
    assert!(matches!(refused, Err(Error::File(TensorError::Write { .. }))));
    assert_eq!(
        Checkpoint::open(&path).unwrap().step(),
        9,
        "a refused save leaves the file as it was"
    );
}

#[test]
fn equal_content_gives_equal_bytes_and_no_partial_file_stays() {
    let (folder, path) = in_folder();
    let model = model(Preset::Nanochat202601);
    save(&model, &path);
    let first = fs::read(&path).unwrap();
    save(&model, &path);
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn any_single_flipped_bit_is_found() {
    let (_folder, path) = in_folder();
    save(&model(Preset::Nanochat202601), &path);
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let in_header = (0..header).step_by(17);
    let in_data = (header..whole.len()).step_by(whole.len() / 40).chain([whole.len() - 1]);
    for at in in_header.chain(in_data) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        let error = failure(&path, None);
        let text = error.with_hint();
        assert!(
            text.contains("model.safetensors") && text.contains("\nhint: "),
            "byte {at}: {text}"
        );
        if at >= header {
            assert!(
                matches!(error, Error::File(TensorError::Checksum { .. })),
                "byte {at}: {text}"
            );
        }
    }
}

/// Too short, too long, or with a header that cannot be.
fn not_whole(error: &Error) -> bool {
    matches!(error, Error::File(TensorError::Header { .. } | TensorError::Size { .. }))
}

#[test]
fn a_cut_file_is_found_wherever_it_was_cut() {
    let (_folder, path) = in_folder();
    save(&model(Preset::Nanochat202607), &path);
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 7, 8, 9, 500, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = failure(&path, None);
        assert!(not_whole(&error), "{length} bytes: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    fs::write(&path, &longer).unwrap();
    assert!(not_whole(&failure(&path, None)));
}

#[test]
fn hostile_headers_are_refused_without_asking_for_memory() {
    let (_folder, path) = in_folder();
    let with_length = |length: u64, json: &str| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes
    };
    let of = |json: &str| with_length(json.len() as u64, json);
    let cases = [
        with_length(1 << 60, "{}"),
        with_length(u64::MAX, "{}"),
        with_length(90_000_000, "{}"),
        of("not json"),
        of("[]"),
        of(
            r#"{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}"#,
        ),
        of(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}"#),
        of(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#),
        of(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[100,104]}}"#),
    ];
    for (i, bytes) in cases.iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let Err(error) = TensorFile::open(&path) else { panic!("case {i} was accepted") };
        let error = Error::from(error);
        assert!(not_whole(&error), "case {i}: {error}");
    }
    let deep = "[".repeat(200_000);
    fs::write(&path, of(&deep)).unwrap();
    assert!(TensorFile::open(&path).is_err());
    fs::write(&path, of("{}")).unwrap();
    assert!(matches!(failure(&path, None), Error::Metadata { .. }));
    assert!(matches!(TensorFile::open(&path.with_file_name("absent")), Err(TensorError::File(_))));
}

/// A configuration may promise more than the file holds: it is refused before memory is asked for.
#[test]
fn a_configuration_larger_than_its_file_is_refused() {
    let (_folder, path) = in_folder();
    let mut huge: GptConfig = config(Preset::Nanochat202607, 16);
    huge.model_dim = 1 << 20;
    huge.vocab_size = 1 << 30;
    let metadata = BTreeMap::from([
        ("farthing.format".to_owned(), "1".to_owned()),
        ("farthing.step".to_owned(), "0".to_owned()),
        ("farthing.config".to_owned(), serde_json::to_string(&huge).unwrap()),
    ]);
    TensorWriter::create(&path, &[], &metadata).unwrap().finish().unwrap();
    let Err(error) = load_model(&path, DEV) else { panic!("accepted") };
    assert!(matches!(error, Error::File(TensorError::Missing { .. })), "{error}");
}

#[test]
fn another_shape_names_the_parameter_and_both_shapes() {
    let (_folder, path) = in_folder();
    save(&model(Preset::Nanochat202601), &path);
    let mut wider = config(Preset::Nanochat202601, 16);
    wider.vocab_size = 100;
    let error = failure(&path, Some(&Gpt::new(wider).unwrap()));
    let text = error.with_hint();
    assert!(
        text.contains(
            "`transformer.wte.weight` has shape (64, 32), the model expects (128, 32)\nhint: "
        ),
        "{text}"
    );
    let mut deeper = config(Preset::Nanochat202601, 16);
    deeper.depth = 4;
    let error = failure(&path, Some(&Gpt::new(deeper).unwrap()));
    assert!(matches!(error, Error::File(TensorError::Missing { .. })), "{error}");
    let mut shallower = config(Preset::Nanochat202601, 16);
    shallower.value_embeds = false;
    let error = failure(&path, Some(&Gpt::new(shallower).unwrap()));
    assert!(
        matches!(&error, Error::Unknown { name, .. } if name.contains("ve_gate") || name.starts_with("value_embeds")),
        "{error}"
    );
}

/// A file as another program would write it: F32, no checksum, no configuration.
#[test]
fn weights_of_another_program_load_into_a_known_configuration() {
    let (_folder, path) = in_folder();
    let gpt = Gpt::new(config(Preset::Nanochat202601, 16)).unwrap();
    let mut head = serde_json::Map::new();
    let mut data = Vec::new();
    for (k, spec) in gpt.params().iter().enumerate() {
        let start = data.len();
        for j in 0..spec.shape.elements() {
            data.extend((k as f32 + j as f32 / 1024.0).to_le_bytes());
        }
        let entry = serde_json::json!({"dtype": "F32", "shape": spec.shape.to_vec(), "data_offsets": [start, data.len()]});
        head.insert(spec.name.clone(), entry);
    }
    let json = serde_json::Value::Object(head).to_string();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend(&data);
    fs::write(&path, &bytes).unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert!(!file.has_checksum());
    let mut params = Params::new(DEV, gpt.single_group()).unwrap();
    load_weights(&file, &gpt, DEV, &mut params).unwrap();
    for (k, spec) in gpt.params().iter().enumerate() {
        let expected: Vec<f64> =
            (0..spec.shape.elements()).map(|j| (k as f32 + j as f32 / 1024.0) as f64).collect();
        assert_eq!(read(&params, spec.id), expected, "{}", spec.name);
    }
    assert!(matches!(failure(&path, None), Error::Metadata { .. }));
}

/// Our own files are read by the `safetensors` crate as they are.
#[test]
fn files_are_plain_safetensors() {
    let (_folder, path) = in_folder();
    let model = model(Preset::Nanochat202607);
    save(&model, &path);
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), model.gpt.params().len());
    let c_q = file.tensor("transformer.h.0.attn.c_q.weight").unwrap();
    assert_eq!((c_q.dtype(), c_q.shape()), (safetensors::Dtype::F64, &[32, 32][..]));
}

#[test]
fn a_writer_that_is_given_the_wrong_bytes_leaves_nothing() {
    let (folder, path) = in_folder();
    let tensor = |name: &str| TensorInfo { name: name.into(), dtype: Dtype::F32, shape: vec![2] };
    let none = BTreeMap::new();
    let mut short = TensorWriter::create(&path, &[tensor("a")], &none).unwrap();
    short.write(&[0; 4]).unwrap();
    assert!(matches!(short.finish(), Err(TensorError::Write { .. })));
    let mut long = TensorWriter::create(&path, &[tensor("a")], &none).unwrap();
    assert!(matches!(long.write(&[0; 12]), Err(TensorError::Write { .. })));
    drop(long);
    assert!(matches!(
        TensorWriter::create(&path, &[tensor("a"), tensor("a")], &none),
        Err(TensorError::Write { .. })
    ));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = folder.path().join("absent/model.safetensors");
    assert!(matches!(TensorWriter::create(&nowhere, &[], &none), Err(TensorError::File(_))));
}

/// On the `cpu` device files are F32 throughout, and a loaded model is the saved one to the bit.
#[test]
fn f32_checkpoints_come_back_to_the_bit() {
    let cpu = farthing_kernels::cpu::Cpu::new(1).unwrap();
    let (_folder, path) = in_folder();
    let before = Model::new(&cpu, config(Preset::Nanochat202607, 16), 1, 16);
    save_model(&path, &before.gpt, &cpu, before.params.weights(), 1, &[], &BTreeMap::new())
        .unwrap();
    let file = TensorFile::open(&path).unwrap();
    assert!(file.names().iter().all(|name| file.info(name).unwrap().dtype == Dtype::F32));
    let (gpt, params) = load_model(&path, &cpu).unwrap();
    let mut after = Model::new(&cpu, gpt.config().clone(), 1, 16);
    after.params = params;
    for i in 0..gpt.params().len() {
        assert_eq!(before.weight(i), after.weight(i));
    }
    let (gpt, _) = load_model(&path, DEV).unwrap();
    assert_eq!(gpt, before.gpt, "a file of one device loads on another");
}

#[test]
fn a_model_is_exported_as_f32_and_as_bf16() {
    let (folder, path) = in_folder();
    let before = model(Preset::Nanochat202607);
    let dev: &dyn Device = DEV;
    let state = dev.master([3]).unwrap();
    let extra = [Extra { name: format!("{STATE_PREFIX}optim.m"), tensor: state.view() }];
    let weights = before.params.weights();
    save_model(&path, &before.gpt, DEV, weights, 7, &extra, &BTreeMap::new()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for (dtype, round) in [
        (DType::F32, (|x| f64::from(x as f32)) as fn(f64) -> f64),
        (DType::BF16, |x| f64::from(farthing_kernels::Bf16::from_f64(x).to_f32())),
    ] {
        let out = folder.path().join("out.safetensors");
        checkpoint.export(&out, dtype, Layout::Farthing, &[]).unwrap();
        let exported = Checkpoint::open(&out).unwrap();
        assert_eq!((exported.step(), exported.state_names().len()), (7, 0));
        let (gpt, params) = load_model(&out, DEV).unwrap();
        assert_eq!(gpt, before.gpt);
        for (i, spec) in gpt.params().iter().enumerate() {
            let expected: Vec<f64> = before.weight(i).into_iter().map(round).collect();
            assert_eq!(read(&params, spec.id), expected, "{}", spec.name);
            let stored = TensorFile::open(&out).unwrap().info(&spec.name).unwrap().dtype;
            assert_eq!(format!("{stored:?}"), format!("{dtype:?}"));
        }
    }
    let refused = checkpoint
        .export(&folder.path().join("no"), DType::I32, Layout::Farthing, &[])
        .unwrap_err();
    assert!(refused.to_string().contains("F32 or BF16, not I32"), "{refused}");
    assert!(!folder.path().join("no").exists());
}

/// The model of nanochat's first release, lively but for the scalars that it had not.
fn october() -> Model<'static> {
    let mut model = model(Preset::Nanochat202510);
    let scalars = [("resid_lambdas", 1.0), ("x0_lambdas", 0.0)];
    for (name, value) in scalars {
        let id = model.gpt.find(name).unwrap();
        let n = model.gpt.params()[id.0].shape.elements();
        model.set_weight(id.0, &vec![value; n]);
    }
    model
}

#[test]
fn a_model_laid_out_for_transformers_is_the_same_model() {
    let (folder, path) = in_folder();
    let before = october();
    save(&before, &path);
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.layout(), Layout::Farthing);
    checkpoint.export(&there, DType::F32, Layout::NanoChat, &[("format", "pt")]).unwrap();
    let file = TensorFile::open(&there).unwrap();
    assert_eq!(file.metadata("format"), Some("pt"));
    let config = before.gpt.config();
    let mut names = file.names();
    names.sort();
    let mut expected = vec!["lm_head.weight".to_owned(), "model.embed_tokens.weight".into()];
    for i in 0..config.depth {
        let parts =
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
        for part in parts.iter().chain(&["mlp.fc1", "mlp.fc2"]) {
            expected.push(format!("model.layers.{i}.{part}.weight"));
        }
    }
    expected.sort();
    assert_eq!(names, expected);
    for table in &expected[..2] {
        assert_eq!(file.info(table).unwrap().shape, [config.vocab_size, config.model_dim]);
    }
    assert!(config.vocab_size < config.padded_vocab());

    // Read as it is, and written in our layout again, and in theirs.
    let exported = Checkpoint::open(&there).unwrap();
    assert_eq!((exported.layout(), exported.step()), (Layout::NanoChat, 7));
    exported.export(&back, DType::F32, Layout::Farthing, &[]).unwrap();
    for file in [&there, &back] {
        let (gpt, params) = load_model(file, DEV).unwrap();
        assert_eq!(gpt, before.gpt);
        for (i, spec) in gpt.params().iter().enumerate() {
            let mut expected: Vec<f64> =
                before.weight(i).into_iter().map(|x| f64::from(x as f32)).collect();
            if spec.shape[0] == config.padded_vocab() {
                expected[config.vocab_size * config.model_dim..].fill(0.0);
            }
            assert_eq!(read(&params, spec.id), expected, "{}", spec.name);
        }
    }
    let again = folder.path().join("again");
    exported.export(&again, DType::F32, Layout::NanoChat, &[("format", "pt")]).unwrap();
    assert_eq!(fs::read(&again).unwrap(), fs::read(&there).unwrap());
}

#[test]
fn what_transformers_has_no_place_for_is_refused_by_name() {
    let (folder, path) = in_folder();
    let refused = |config: GptConfig, feature: &str| {
        let mut model = Model::new(DEV, config, 1, 16);
        for name in ["resid_lambdas", "x0_lambdas"].into_iter().filter(|name| *name != feature) {
            let id = model.gpt.find(name).unwrap();
            let value = if name == "resid_lambdas" { 1.0 } else { 0.0 };
            let n = model.gpt.params()[id.0].shape.elements();
            model.set_weight(id.0, &vec![value; n]);
        }
        save(&model, &path);
        let out = folder.path().join("out");
        let checkpoint = Checkpoint::open(&path).unwrap();
        let error = checkpoint.export(&out, DType::F32, Layout::NanoChat, &[]).unwrap_err();
        assert!(matches!(error, Error::Inexpressible { .. }), "{error}");
        assert!(error.to_string().contains(&format!("has no `{feature}`")), "{error}");
        assert!(error.with_hint().contains("\nhint: ") && !out.exists());
    };
    let plain = config(Preset::Nanochat202510, 16);
    let with = |change: &dyn Fn(&mut GptConfig)| {
        let mut config = plain.clone();
        change(&mut config);
        config
    };
    refused(with(&|c| c.value_embeds = true), "value_embeds");
    refused(with(&|c| c.smear = true), "smear");
    refused(with(&|c| c.backout = true), "backout");
    refused(with(&|c| c.window_pattern = "SL".into()), "window_pattern");
    refused(with(&|c| c.qk_gain = 1.2), "qk_gain");
    refused(with(&|c| c.rotary_fraction = 0.5), "rotary_fraction");
    refused(with(&|c| c.mlp = farthing_model::Mlp::Swiglu), "mlp");
    refused(plain.clone(), "resid_lambdas");
    refused(plain.clone(), "x0_lambdas");

    // A file that says that it is laid out so, of a model that cannot be, or in a way that nobody knows.
    save(&model(Preset::Nanochat202607), &path);
    let forged = |layout: &str| {
        let file = TensorFile::open(&path).unwrap();
        let infos: Vec<TensorInfo> = file.names().iter().map(|n| file.info(n).unwrap()).collect();
        let keys = ["farthing.format", "farthing.config", "farthing.step"];
        let mut metadata: BTreeMap<String, String> =
            keys.iter().map(|k| ((*k).to_owned(), file.metadata(k).unwrap().to_owned())).collect();
        metadata.insert("farthing.layout".into(), layout.into());
        let out = folder.path().join("forged");
        let mut writer = TensorWriter::create(&out, &infos, &metadata).unwrap();
        for info in &infos {
            writer.write(file.bytes(&info.name).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        load_model(&out, DEV).map(drop).unwrap_err()
    };
    assert!(matches!(forged("nanochat"), Error::Inexpressible { .. }));
    let unknown = forged("elsewhere").to_string();
    assert!(unknown.contains("is `elsewhere`, this program knows `nanochat`"), "{unknown}");
}

/// The file with one tensor's element replaced, whole again.
fn with_element(path: &Path, name: &str, at: usize, value: f32) {
    let file = TensorFile::open(path).unwrap();
    let infos: Vec<TensorInfo> = file.names().iter().map(|n| file.info(n).unwrap()).collect();
    let keys = ["farthing.format", "farthing.config", "farthing.step"];
    let metadata: BTreeMap<String, String> =
        keys.iter().map(|k| ((*k).to_owned(), file.metadata(k).unwrap().to_owned())).collect();
    let mut writer = TensorWriter::create(&path.with_extension("new"), &infos, &metadata).unwrap();
    for info in &infos {
        let mut bytes = file.bytes(&info.name).unwrap().to_vec();
        if info.name == name {
            match info.dtype {
                Dtype::F64 => bytes[at * 8..][..8].copy_from_slice(&f64::from(value).to_le_bytes()),
                Dtype::F32 => bytes[at * 4..][..4].copy_from_slice(&value.to_le_bytes()),
                _ => bytes[at * 2..][..2].copy_from_slice(&value.to_le_bytes()[2..]),
            }
        }
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    drop(file);
    fs::rename(path.with_extension("new"), path).unwrap();
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_whoever_reads_them() {
    let (folder, path) = in_folder();
    let model = model(Preset::Nanochat202607);
    save(&model, &path);
    let good = fs::read(&path).unwrap();
    for dtype in [None, Some(DType::F32), Some(DType::BF16)] {
        fs::write(&path, &good).unwrap();
        if let Some(dtype) = dtype {
            let other = folder.path().join("other");
            Checkpoint::open(&path).unwrap().export(&other, dtype, Layout::Farthing, &[]).unwrap();
            fs::rename(other, &path).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        // In a matrix, in a scalar, the first and the last element; every kind of no number.
        for (name, at, value) in [
            ("transformer.wte.weight", 17, f32::NAN),
            ("lm_head.weight", 0, f32::INFINITY),
            ("resid_lambdas", 1, f32::NEG_INFINITY),
        ] {
            fs::write(&path, &whole).unwrap();
            with_element(&path, name, at, value);
            let export = Checkpoint::open(&path).unwrap();
            let export = export
                .export(&folder.path().join("out"), DType::BF16, Layout::Farthing, &[])
                .unwrap_err();
            let loaded = load_model(&path, DEV).map(drop).unwrap_err();
            for error in [loaded, failure(&path, None), export] {
                assert!(matches!(error, Error::NotFinite { .. }), "{error}");
                let text = error.with_hint();
                assert!(text.contains(&format!("element {at} of `{name}` is {value}")), "{text}");
                assert!(text.contains("\nhint: "), "{text}");
            }
            assert!(!folder.path().join("out").exists());
        }
    }
}

#[test]
fn a_configuration_that_lies_is_refused_before_anything_is_made_of_it() {
    let (_folder, path) = in_folder();
    let model = model(Preset::Nanochat202601);
    let lie = |change: &dyn Fn(&mut GptConfig)| {
        let mut config = model.gpt.config().clone();
        change(&mut config);
        let metadata: BTreeMap<String, String> = [
            ("farthing.format", "1".to_owned()),
            ("farthing.config", serde_json::to_string(&config).unwrap()),
            ("farthing.step", "7".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let infos: Vec<TensorInfo> = model
            .gpt
            .params()
            .iter()
            .map(|spec| TensorInfo {
                name: spec.name.clone(),
                dtype: Dtype::F64,
                shape: spec.shape.to_vec(),
            })
            .collect();
        let mut writer = TensorWriter::create(&path, &infos, &metadata).unwrap();
        for spec in model.gpt.params() {
            writer.write(&vec![0; spec.shape.elements() * 8]).unwrap();
        }
        writer.finish().unwrap();
        load_model(&path, DEV).map(drop)
    };
    lie(&|_| ()).unwrap();
    // What each promises are terabytes.
    let error = lie(&|c| c.depth = 1 << 20).unwrap_err().to_string();
    assert!(error.contains("announces 1048576 layers"), "{error}");
    for change in [
        &(|c: &mut GptConfig| (c.heads, c.kv_heads) = (1 << 20, 1)) as &dyn Fn(&mut GptConfig),
        &|c| c.vocab_size = 1 << 30,
        &|c| c.model_dim = 1 << 20,
        &|c| c.head_dim = 1 << 20,
        &|c| (c.heads, c.kv_heads) = (1 << 20, 1 << 20),
    ] {
        let error = lie(change).unwrap_err();
        assert!(matches!(error, Error::ParameterShape { .. }), "{error}");
    }
}

/// A file of ours with its header and its data changed, sealed again as whoever makes a file can seal it.
fn forge(path: &Path, edit: impl Fn(&mut String, &mut Vec<u8>)) {
    const MARK: &str = "\"farthing.blake3\":\"";
    let bytes = fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
    let mut data = bytes[end..].to_vec();
    edit(&mut header, &mut data);
    let at = header.find(MARK).unwrap() + MARK.len();
    header.replace_range(at..at + 64, &"0".repeat(64));
    let mut whole = (header.len() as u64).to_le_bytes().to_vec();
    whole.extend(header.as_bytes());
    whole.extend(&data);
    let digest = blake3::hash(&whole).to_hex();
    whole[8 + at..8 + at + 64].copy_from_slice(digest.as_bytes());
    fs::write(path, whole).unwrap();
}

/// Whether a file is the model that it says it is.
fn check(path: &Path) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.check(&Gpt::new(checkpoint.config().clone())?)
}

/// What a model from elsewhere is refused for.
fn refusal(edit: impl Fn(&mut String, &mut Vec<u8>)) -> Error {
    let (_folder, path) = in_folder();
    save(&model(Preset::Nanochat202607), &path);
    forge(&path, edit);
    let error = check(&path).unwrap_err();
    assert!(error.with_hint().contains("\nhint: "), "{error}");
    error
}

#[test]
fn a_sealed_file_that_is_not_its_model_is_refused_by_name() {
    let (_folder, path) = in_folder();
    save(&model(Preset::Nanochat202607), &path);
    check(&path).unwrap();
    assert_eq!(Checkpoint::peek(&path).unwrap().1, 7);
    forge(&path, |_, _| {});
    check(&path).unwrap();

    // Elements are f64 on this device; the first tensor's bytes come first.
    for (at, value) in [(0, f64::NAN), (9, f64::INFINITY), (2, f64::NEG_INFINITY)] {
        let error =
            refusal(|_, data| data[8 * at..8 * at + 8].copy_from_slice(&value.to_le_bytes()));
        assert!(matches!(&error, Error::NotFinite { at: found, .. } if *found == at), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("element {at} of `")), "{text}");
    }
    let error =
        refusal(|header, _| *header = header.replace("\"smear_lambda\"", "\"smear_lambdas\""));
    assert!(
        matches!(&error, Error::File(TensorError::Missing { name, .. }) if name == "smear_lambda")
    );
    let error =
        refusal(|header, _| *header = header.replace("\"shape\":[1,24]", "\"shape\":[24,1]"));
    assert!(
        matches!(&error, Error::ParameterShape { name, .. } if name == "smear_gate.weight"),
        "{error}"
    );
    let error = refusal(|header, _| *header = header.replace("\"F64\"", "\"I64\""));
    assert!(matches!(error, Error::ElementType { .. }), "{error}");
    // The same tensor twice, once as another type: parsers differ in which they take.
    let error = refusal(|header, _| {
        let key = "\"smear_lambda\":";
        let start = header.find(key).unwrap();
        let end = start + header[start..].find('}').unwrap() + 1;
        let entry = header[start..end].to_owned();
        header.insert_str(start, &format!("{entry},"));
    });
    assert!(error.to_string().contains("`smear_lambda`"), "{error}");
    let error = refusal(|header, data| {
        let n = data.len();
        data.extend([0; 8]);
        let entry = format!(
            ",\"evil\":{{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[{n},{}]}}}}",
            n + 8
        );
        let end = header.trim_end().len() - 1;
        header.replace_range(end.., &entry);
    });
    assert!(matches!(&error, Error::Unknown { name, .. } if name == "evil"), "{error}");
}
