use candle_core::{DType, Device};

use super::*;
use crate::gradients::Gradients;

fn matrix(rows: usize, columns: usize, seed: usize) -> Tensor {
    let values: Vec<f32> =
        (0..rows * columns).map(|i| ((i * 37 + seed * 101 + 11) % 97) as f32 / 48.0 - 1.0).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn bias(rows: usize, seed: usize) -> Tensor {
    matrix(1, rows, seed).reshape(rows).unwrap()
}

fn module(name: &str, weight: Tensor, bias: Option<Tensor>) -> NewModule {
    NewModule { name: name.to_owned(), weight, bias }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Three modules of 5, 3 and 4 outputs over 7 inputs; the second has a bias.
fn three() -> (Parameters, Linear) {
    let mut parameters = Parameters::default();
    let modules = vec![
        module("q", matrix(5, 7, 1), None),
        module("k", matrix(3, 7, 2), Some(bias(3, 4))),
        module("v", matrix(4, 7, 3), None),
    ];
    let linear = Linear::insert(&mut parameters, modules).unwrap();
    (parameters, linear)
}

#[test]
fn modules_stand_side_by_side_under_their_names() {
    let (parameters, linear) = three();
    let found: Vec<_> = linear.modules().iter().map(|m| (m.name.as_str(), m.rows.clone())).collect();
    assert_eq!(found, [("q", 0..5), ("k", 5..8), ("v", 8..12)]);
    assert_eq!((linear.inputs, linear.outputs()), (7, 12));
    let x = matrix(2, 7, 9);
    let y = numbers(&linear.forward(&parameters, &x, SumOrder::Fastest).unwrap());
    let (x, w, b) = (numbers(&x), numbers(&matrix(3, 7, 2)), numbers(&bias(3, 4)));
    for row in 0..2 {
        for column in 0..3 {
            let product: f64 = (0..7).map(|i| f64::from(x[row * 7 + i]) * f64::from(w[column * 7 + i])).sum();
            let want = product + f64::from(b[column]);
            assert!((f64::from(y[row * 12 + 5 + column]) - want).abs() < 1e-5);
        }
    }
}

#[test]
fn one_fused_matrix_gives_what_its_parts_give() {
    let (parameters, linear) = three();
    let mut fused = Parameters::default();
    let weight = Tensor::cat(&[matrix(5, 7, 1), matrix(3, 7, 2), matrix(4, 7, 3)], 0).unwrap();
    let zeros = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
    let all = Tensor::cat(&[zeros(5), bias(3, 4), zeros(4)], 0).unwrap();
    let one = Linear::insert(&mut fused, vec![module("qkv", weight, Some(all))]).unwrap();
    let (x, dy) = (matrix(6, 7, 9), matrix(6, 12, 10));
    let forward = |linear: &Linear, parameters: &Parameters| {
        numbers(&linear.forward(parameters, &x, SumOrder::ByRow).unwrap())
    };
    assert_eq!(forward(&linear, &parameters), forward(&one, &fused));
    let (apart, together) = (Gradients::zeros(&parameters).unwrap(), Gradients::zeros(&fused).unwrap());
    linear.backward(&parameters, &x, &dy, &apart).unwrap();
    one.backward(&fused, &x, &dy, &together).unwrap();
    let of = |name: &str, parameters: &Parameters, gradients: &Gradients| {
        numbers(gradients.get(parameters.find(name).unwrap()).unwrap())
    };
    let rows = ["q.weight", "k.weight", "v.weight"].map(|name| of(name, &parameters, &apart)).concat();
    assert_eq!(rows, of("qkv.weight", &fused, &together));
    assert_eq!(of("k.bias", &parameters, &apart), of("qkv.bias", &fused, &together)[5..8]);
}

#[test]
fn packed_weights_change_no_bit_and_are_counted() {
    let (parameters, mut linear) = three();
    let dense = (12 * 7 + 3) * 4;
    assert_eq!(linear.footprint(&parameters), dense);
    for rows in [0, 1, 5] {
        let x = matrix(rows, 7, 9);
        let want = numbers(&linear.forward(&parameters, &x, SumOrder::Fastest).unwrap());
        linear.pack(&parameters).unwrap();
        assert_eq!(
            numbers(&linear.forward(&parameters, &x, SumOrder::Fastest).unwrap()),
            want,
            "{rows} rows"
        );
        assert_eq!(linear.footprint(&parameters), dense + 12 * 7 * 4);
        linear.unpack();
    }
    assert_eq!(linear.footprint(&parameters), dense);
}

#[test]
fn a_tied_map_trains_the_embedding_and_weighs_nothing() {
    let mut parameters = Parameters::default();
    let embedding =
        parameters.push(Parameter::new("embed.weight", matrix(9, 4, 1), ParameterKind::Embedding));
    let linear = Linear::tied(&parameters, "lm_head", embedding).unwrap();
    assert_eq!(linear.footprint(&parameters), 0);
    let gradients = Gradients::zeros(&parameters).unwrap();
    linear.backward(&parameters, &matrix(3, 4, 2), &matrix(3, 9, 3), &gradients).unwrap();
    assert!(numbers(gradients.get(embedding).unwrap()).iter().any(|&g| g != 0.0));
}

#[test]
fn frozen_weights_have_no_gradient_and_pass_one_on() {
    let (mut parameters, linear) = three();
    let (x, dy) = (matrix(3, 7, 9), matrix(3, 12, 10));
    let all = Gradients::zeros(&parameters).unwrap();
    let want = numbers(&linear.backward(&parameters, &x, &dy, &all).unwrap());
    parameters.set_trainable(|parameter| parameter.name == "k.bias");
    let some = Gradients::zeros(&parameters).unwrap();
    assert_eq!(numbers(&linear.backward(&parameters, &x, &dy, &some).unwrap()), want);
    assert_eq!(some.iter().count(), 1);
}

#[test]
fn other_shapes_are_errors() {
    let (mut parameters, linear) = three();
    let error = linear.forward(&parameters, &matrix(2, 6, 1), SumOrder::Fastest).unwrap_err().to_string();
    assert!(error.contains("q, k, v") && error.contains("7 columns"), "{error}");
    let gradients = Gradients::zeros(&parameters).unwrap();
    assert!(linear.backward(&parameters, &matrix(2, 7, 1), &matrix(2, 11, 1), &gradients).is_err());
    assert!(linear.backward(&parameters, &matrix(2, 7, 1), &matrix(3, 12, 1), &gradients).is_err());
    let stored = |name: &str, bias| layout::ModuleSpec { name: name.to_owned(), outputs: 5, inputs: 7, bias };
    assert!(Linear::of(&parameters, &[stored("q", false), stored("k", true)]).is_some());
    assert!(Linear::of(&parameters, &[stored("q", false), stored("absent", false)]).is_none());
    assert!(Linear::of(&parameters, &[stored("q", true)]).is_none(), "a bias that is not there");
    let odd = vec![module("a", matrix(2, 7, 1), None), module("b", matrix(2, 6, 1), None)];
    assert!(Linear::insert(&mut parameters, odd).is_err());
}
