//! A model whose activations are stored in bf16: near the f64 one, learning like it, and as repeatable.

use crate::common;

use common::{BOTH, Model, Tokens, config, distance, norm, seq_len, variants};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::reference::Reference;
use farthing_kernels::rounded::Rounded;
use farthing_kernels::{DType, Device};
use farthing_model::{GptConfig, Mode};

fn on_cpu(threads: usize) -> Rounded {
    Rounded::new(Box::new(Cpu::new(threads).unwrap())).unwrap()
}

/// Eight significant bits per stored value: the loss within 0.2%, each matrix's gradient within 4%, and those of single numbers,
/// sums over all positions that cancel, within 15% when taken together.
fn is_near_the_one_in_f64(narrow: &dyn Device, config: &GptConfig) {
    let exact = Reference::new();
    let t = config.seq_len;
    let mut narrow = Model::new(narrow, config.clone(), 2, t);
    let mut wide = Model::new(&exact, config.clone(), 2, t);
    let tokens = Tokens::new(2, t, 4);
    let scale = 1.0 / tokens.valid() as f64;
    let sums = [narrow.train(&tokens.batch(), scale), wide.train(&tokens.batch(), scale)];
    let mut worst = (0.0, String::new());
    let [mut got_numbers, mut numbers] = [vec![], vec![]];
    for i in 0..wide.gpt.params().len() {
        let spec = wide.gpt.params()[i].clone();
        let (got, expected) = (narrow.grad(i), wide.grad(i));
        if spec.shape.len() == 1 {
            got_numbers.extend(got);
            numbers.extend(expected);
            continue;
        }
        let error = distance(&got, &expected);
        if error > worst.0 {
            worst = (error, spec.name);
        }
    }
    let of_numbers = distance(&got_numbers, &numbers);
    let relative = (sums[0] - sums[1]).abs() / sums[1];
    eprintln!("loss {relative:.1e}, gradients {worst:?}, of single numbers {of_numbers:.1e}");
    assert!(relative < 2e-3 && worst.0 < 0.04 && of_numbers < 0.15, "{config:?}");
}

#[test]
fn losses_and_gradients_are_near_those_in_f64() {
    let rounded = on_cpu(2);
    let plain = BOTH.map(|preset| config(preset, seq_len(preset)));
    for config in plain.into_iter().chain(variants(40)) {
        is_near_the_one_in_f64(&rounded, &GptConfig { depth: 3, ..config });
    }
}

/// Every kernel of a training step's forward and backward, through the launch code, in the emulator with all of its checks.
#[test]
fn the_kernels_of_the_cuda_device_train_the_same_model() {
    let emulated = Cuda::emulated().unwrap();
    let plain = BOTH.map(|preset| config(preset, seq_len(preset)));
    for config in plain.into_iter().chain(variants(40)) {
        is_near_the_one_in_f64(&emulated, &config);
    }
}

/// Storage is what rounds: every tensor that is not a statistic is bf16, weights to multiply are the rounded masters, and masters are not rounded.
#[test]
fn weights_are_multiplied_in_bf16_and_kept_in_f32() {
    let rounded = on_cpu(1);
    let dev: &dyn Device = &rounded;
    let model = Model::new(dev, config(BOTH[1], 16), 1, 16);
    let weights = model.params.weights();
    for spec in model.gpt.params() {
        let (multiplied, master) =
            (weights.get(spec.id).unwrap(), weights.master(spec.id).unwrap());
        assert_eq!((multiplied.dtype(), master.dtype()), (DType::BF16, DType::F32));
        let (multiplied, master) =
            (dev.read_f64(multiplied).unwrap(), dev.read_f64(master).unwrap());
        assert_ne!(multiplied, master, "{}", spec.name);
        assert!(distance(&multiplied, &master) < 1.0 / 256.0, "{}", spec.name);
    }
    let planned = model.gpt.workspace_bytes(DType::BF16, DType::F32, 1, 16, Mode::Train).unwrap();
    assert_eq!(model.ws.bytes(), planned);
    let wide = model.gpt.workspace_bytes(DType::F32, DType::F32, 1, 16, Mode::Train).unwrap();
    assert!((0.5..0.6).contains(&(planned as f64 / wide as f64)), "{planned} of {wide}");
}

#[test]
fn one_and_two_threads_agree_to_the_bit() {
    let (one, two) = (on_cpu(1), on_cpu(2));
    let tokens = Tokens::new(3, 40, 1);
    for config in variants(40) {
        let mut models = [&one, &two].map(|dev| Model::new(dev, config.clone(), 3, 40));
        let sums = models.each_mut().map(|model| model.train(&tokens.batch(), 0.01));
        assert_eq!(sums[0].to_bits(), sums[1].to_bits());
        for i in 0..models[0].gpt.params().len() {
            let [a, b] = models.each_mut().map(|model| model.grad(i));
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "parameter {i}");
        }
    }
}

#[test]
fn plain_descent_learns_a_batch_by_heart_in_bf16_too() {
    let dev = on_cpu(2);
    let tokens = Tokens::new(2, 16, 6);
    let scale = 1.0 / tokens.valid() as f64;
    let mut model = Model::new(&dev, config(BOTH[1], 16), 2, 16);
    model.gpt.initialize(&dev, &mut model.params, 1).unwrap();
    let first = model.train(&tokens.batch(), scale) * scale;
    let mut last = first;
    for _ in 0..150 {
        for i in 0..model.gpt.params().len() {
            let grad = model.grad(i);
            let rate = 0.05 / norm(&grad).max(1e-3);
            let stepped: Vec<f64> =
                model.weight(i).iter().zip(&grad).map(|(w, g)| w - rate * g).collect();
            model.set_weight(i, &stepped);
        }
        model.params.zero_grads(&dev).unwrap();
        last = model.train(&tokens.batch(), scale) * scale;
    }
    assert!(last < 0.5 * first, "from {first} to {last}");
}
