//! Against bitsandbytes: 34 cases with packed codes, scales and decoded weights, made by its CPU code and by a model of
//! its CUDA kernels. Needs `../shared/golden/nf4`.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::quantize::encode_scales;
use super::{BLOCK, CODES, Nf4Weight, SCALE_BLOCK, Scales, dynamic_map};
use crate::material::shared;

struct Goldens {
    tensors: HashMap<String, Tensor>,
    description: serde_json::Value,
}

impl Goldens {
    fn open() -> Option<Self> {
        let dir = shared("golden/nf4")?;
        let description = std::fs::read(dir.join("nf4_cases.json")).unwrap();
        let tensors = candle_core::safetensors::load(dir.join("nf4_cases.safetensors"), &Device::Cpu).unwrap();
        Some(Self { tensors, description: serde_json::from_slice(&description).unwrap() })
    }

    fn cases(&self) -> impl Iterator<Item = &str> {
        self.description["cases"].as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap())
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no {name}")).clone()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.tensor(name).flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensor(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    fn input(&self, case: &str) -> Tensor {
        let input = self.tensor(&format!("{case}.input"));
        if input.rank() == 1 { input.unsqueeze(0).unwrap() } else { input }
    }
}

/// Bit for bit; names the first number that differs.
fn same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differs = |at: &usize| found[*at].to_bits() != expected[*at].to_bits();
    if let Some(at) = (0..found.len()).find(differs) {
        panic!("{what}: number {at} is {:e}, expected {:e}", found[at], expected[at]);
    }
}

fn same_bytes(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if let Some(at) = (0..found.len()).find(|at| found[*at] != expected[*at]) {
        panic!("{what}: byte {at} is {}, expected {}", found[at], expected[at]);
    }
}

#[test]
fn tables_are_bitsandbytes() {
    let Some(goldens) = Goldens::open() else { return };
    same(&CODES, &goldens.floats("table.nf4_code"), "codes");
    same(&super::tables::THRESHOLDS, &goldens.floats("table.nf4_thresholds"), "thresholds");
    same(&dynamic_map(), &goldens.floats("table.dynamic_map_signed_8bit"), "codes of scales");
}

/// Codes, scales and decoded weights of every case, bit for bit, but what no two of bitsandbytes' own kernels agree on:
/// blocks whose scale is a denormal, and the scale stored for an empty tail.
#[test]
fn codes_and_scales_are_bitsandbytes() {
    let Some(goldens) = Goldens::open() else { return };
    for case in goldens.cases() {
        let input = goldens.input(case);
        let weight = Nf4Weight::quantize(&input, false).unwrap();
        let Scales::Plain(scales) = weight.scales() else { panic!("plain scales were asked for") };
        same_bytes(weight.packed(), &goldens.bytes(&format!("{case}.bnb_cpu.packed")), case);
        if !case.contains("zero_tail") {
            same(scales, &goldens.floats(&format!("{case}.bnb_cpu.absmax")), case);
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let decoded = weight.dequantize(dtype, &Device::Cpu).unwrap();
            if dtype == input.dtype() {
                let decoded: Vec<f32> = decoded.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                same(&decoded, &goldens.floats(&format!("{case}.bnb_cpu.dequant")), case);
            }
        }
    }
}

/// Scales of scales: with the offset that bitsandbytes stored, the bytes and the decoded weights are those of its
/// nearest-code rule; with our own mean the offset is within one unit in the last place.
#[test]
fn double_quantization_is_bitsandbytes() {
    let Some(goldens) = Goldens::open() else { return };
    for case in goldens.cases().filter(|case| !case.contains("huge")) {
        let absmax = goldens.floats(&format!("{case}.cuda_model.absmax"));
        let offset = goldens.floats(&format!("{case}.cuda_model.nested.offset"))[0];
        let map = dynamic_map();
        let (codes, outer) = encode_scales(&absmax, offset, &map);
        same_bytes(&codes, &goldens.bytes(&format!("{case}.cuda_model.nested.absmax_q")), case);
        same(&outer, &goldens.floats(&format!("{case}.cuda_model.nested.absmax2")), case);

        let scales = Scales::Double { codes, map: Arc::new(map), outer, outer_block: SCALE_BLOCK, offset };
        let input = goldens.input(case);
        let shape = input.dims2().unwrap();
        let packed = goldens.bytes(&format!("{case}.cuda_model.packed"));
        let weight = Nf4Weight::new(packed, scales, CODES, BLOCK, shape, input.dtype()).unwrap();
        let decoded = weight.dequantize(input.dtype(), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        let decoded: Vec<f32> = decoded.flatten_all().unwrap().to_vec1().unwrap();
        same(&decoded, &goldens.floats(&format!("{case}.cuda_model.nested.dequant")), case);

        let own = Nf4Weight::quantize(&input, true).unwrap();
        let Scales::Double { offset: own, .. } = own.scales() else { panic!("double scales were asked for") };
        assert!(own.to_bits().abs_diff(offset.to_bits()) <= 1, "{case}: offset {own} against {offset}");
    }
}
