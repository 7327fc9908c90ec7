use candle_core::{DType, Device, Tensor};

use super::super::{Linear, SumOrder, Weight};
use super::*;
use crate::architecture::layout::ModuleSpec;
use crate::gradients::Gradients;
use crate::parameters::Parameters;

fn matrix(rows: usize, columns: usize) -> Tensor {
    let values: Vec<f32> =
        (0..rows * columns).map(|i| ((i * 193 + 71) % 1009) as f32 / 504.5 - 1.0 + i as f32 * 1e-5).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// One block by hand: scale 2, codes 0 to 15 in order, the first in the high half of a byte.
fn by_hand() -> Nf4Matrix {
    let codes: Vec<u8> = (0..8).map(|i| (2 * i) << 4 | (2 * i + 1)).collect();
    Nf4Matrix::of_parts([2, 8], codes, &LEVELS, Nf4Scales::Plain(vec![2.0]), 64).unwrap()
}

#[test]
fn codes_are_levels_times_their_block_s_scale() {
    let want: Vec<f32> = LEVELS.iter().map(|level| 2.0 * level).collect();
    assert_eq!(numbers(&by_hand().dense(DType::F32).unwrap()), want);
}

#[test]
fn a_scale_of_eight_bits_is_a_level_times_its_block_s_plus_the_mean() {
    let mut map = vec![0.0; 256];
    (map[3], map[200]) = (-0.5, 0.25);
    let scales = Nf4Scales::Nested { codes: vec![3, 200], map, scales: vec![4.0, 8.0], block: 1, mean: 3.0 };
    // Two blocks of 16 codes 15, which is 1: the scales themselves.
    let matrix = Nf4Matrix::of_parts([2, 16], vec![0xff; 16], &LEVELS, scales, 16).unwrap();
    let values = numbers(&matrix.dense(DType::F32).unwrap());
    assert_eq!(values, [[1.0; 16], [5.0; 16]].concat());
}

/// Every byte, 255 among them, which candle takes for no index where ids are bytes.
#[test]
fn a_device_s_matrix_has_every_byte_s_numbers() {
    let codes: Vec<u8> = (0..=255).collect();
    let host = Nf4Matrix::of_parts([8, 64], codes, &LEVELS, Nf4Scales::Plain(vec![3.0; 8]), 64).unwrap();
    let device = host.clone().on(&Device::Cpu).unwrap();
    assert_eq!(numbers(&device.dense(DType::F32).unwrap()), numbers(&host.dense(DType::F32).unwrap()));
}

#[test]
fn the_map_of_scales_is_bitsandbytes_s() {
    let map = dynamic_map(true);
    assert_eq!(map.len(), 256);
    assert_eq!((map[0], map[127], map[255]), (-0.992_968_74, 0.0, 1.0));
    assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
    // 10⁻⁶ · 0.55, and of 64 parts of [0.1, 1] the middle of the first.
    assert!(map.contains(&(1e-6 * 0.55)) && map.contains(&0.107_031_256));
}

#[test]
fn quantising_takes_the_nearest_level_and_loses_no_more_than_half_a_step() {
    let dense = matrix(6, 80);
    let quantized = Nf4Matrix::quantize(&dense).unwrap();
    let (want, got) = (numbers(&dense), numbers(&quantized.dense(DType::F32).unwrap()));
    for (block, (want, got)) in want.chunks(64).zip(got.chunks(64)).enumerate() {
        let scale = want.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (want, got) in want.iter().zip(got) {
            // Half of the widest step, and what the second quantisation takes.
            assert!((want - got).abs() < 0.16 * scale, "block {block}: {want} {got}");
        }
    }
    // Half of 480 numbers' bytes, a byte for each of 8 blocks, the map and one scale.
    assert_eq!(quantized.footprint(), 240 + 8 + 4 * 256 + 4);
    let zeros = Nf4Matrix::quantize(&Tensor::zeros((2, 64), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(numbers(&zeros.dense(DType::F32).unwrap()), [0.0; 128]);
}

#[test]
fn decoding_in_parts_is_decoding_at_once() {
    // Rows that are no whole blocks, and an odd number of numbers in all.
    let matrix = Nf4Matrix::quantize(&matrix(7, 33)).unwrap();
    let whole = numbers(&matrix.dense(DType::F32).unwrap());
    for (first, rows) in [(0, 1), (1, 3), (3, 4), (6, 1)] {
        assert_eq!(
            numbers(&matrix.decoded_rows(first, rows).unwrap()),
            whole[first * 33..(first + rows) * 33]
        );
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let plain = |scales: usize| Nf4Scales::Plain(vec![1.0; scales]);
    let of = |codes: usize, levels: usize, scales, block| {
        Nf4Matrix::of_parts([2, 64], vec![0; codes], &LEVELS[..levels], scales, block).is_some()
    };
    assert!(of(64, 16, plain(2), 64));
    assert!(!of(63, 16, plain(2), 64));
    assert!(!of(64, 15, plain(2), 64));
    assert!(!of(64, 16, plain(1), 64));
    assert!(!of(64, 16, plain(128), 1));
    assert!(!of(64, 16, plain(2), 0));
    let huge = Nf4Matrix::of_parts([usize::MAX, 2], vec![], &LEVELS, plain(0), 64);
    assert!(huge.is_none());
}

#[test]
fn a_map_with_it_computes_and_passes_gradients_on_as_the_dense_one() {
    let (quantized, dense) = (Nf4Matrix::quantize(&matrix(6, 16)).unwrap(), matrix(4, 16));
    let specs = ["a", "b"].map(|name| ModuleSpec {
        name: name.to_owned(),
        outputs: if name == "a" { 6 } else { 4 },
        inputs: 16,
        bias: false,
    });
    let mut both = Parameters::default();
    both.push_quantized("a.weight".to_owned(), quantized.clone());
    let parameter = |name: &str, value| {
        crate::parameters::Parameter::new(name, value, crate::architecture::ParameterKind::Matrix)
    };
    both.push(parameter("b.weight", dense.clone()));
    let mut linear = Linear::of(&both, &specs).unwrap();
    assert!(matches!(linear.modules()[0].weight, Weight::Nf4(_)));
    let mut plain = Parameters::default();
    plain.push(parameter("a.weight", quantized.dense(DType::F32).unwrap()));
    plain.push(parameter("b.weight", dense));
    let same = Linear::of(&plain, &specs).unwrap();
    let (x, dy) = (matrix(5, 16), matrix(5, 10));
    let y = |linear: &Linear, parameters: &Parameters| {
        numbers(&linear.forward(parameters, &x, SumOrder::Fastest).unwrap())
    };
    assert_eq!(y(&linear, &both), y(&same, &plain));
    let (one, other) = (Gradients::zeros(&both).unwrap(), Gradients::zeros(&plain).unwrap());
    let dx = numbers(&linear.backward(&both, &x, &dy, &one).unwrap());
    assert_eq!(dx, numbers(&same.backward(&plain, &x, &dy, &other).unwrap()));
    // The quantised one has no gradient, the other its own.
    assert_eq!(one.iter().count(), 1);
    assert_eq!(linear.footprint(&both), quantized.footprint() + 4 * 64);
    // No dense copy for inference, nor another where a block goes on from one row to the next.
    linear.pack(&both).unwrap();
    assert_eq!(linear.footprint(&both), quantized.footprint() + 4 * 64);
    assert_eq!(y(&linear, &both), y(&same, &plain));
}

#[test]
fn for_inference_the_codes_are_packed_and_give_the_same_bits() {
    let mut parameters = Parameters::default();
    let specs = [("a", 50), ("b", 7)].map(|(name, outputs)| {
        let quantized = Nf4Matrix::quantize(&matrix(outputs, 128)).unwrap();
        parameters.push_quantized(format!("{name}.weight"), quantized);
        ModuleSpec { name: name.to_owned(), outputs, inputs: 128, bias: false }
    });
    let mut linear = Linear::of(&parameters, &specs).unwrap();
    let before = linear.footprint(&parameters);
    for rows in [1, 3, 100] {
        let x = matrix(rows, 128);
        let bits = |linear: &Linear| -> Vec<u32> {
            let y = linear.forward(&parameters, &x, SumOrder::Fastest).unwrap();
            numbers(&y).into_iter().map(f32::to_bits).collect()
        };
        let want = bits(&linear);
        linear.pack(&parameters).unwrap();
        assert!(bits(&linear) == want, "{rows} rows");
        // Half a byte a number and a scale of four for each 64, in panels that are full: less than a quarter of f32's.
        let more = linear.footprint(&parameters) - before;
        assert!(more > 0 && more <= 144 * 128, "{more}");
        linear.unpack();
        assert_eq!(linear.footprint(&parameters), before);
    }
}

#[test]
fn on_a_device_a_look_up_gives_the_same_numbers() {
    // The form of other devices, on this one.
    let host = Nf4Matrix::quantize(&matrix(5, 27)).unwrap();
    let device = host.clone().on(&Device::Cpu).unwrap();
    assert!(matches!(device.form, Form::Device { .. }));
    assert_eq!(numbers(&device.dense(DType::F32).unwrap()), numbers(&host.dense(DType::F32).unwrap()));
}
