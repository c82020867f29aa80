//! Weights that are no numbers, or give none: every command that uses them ends and names the tensor or the layer, the
//! text and the position.

use std::fs;

use serde_json::json;

use crate::fixture::desk::Desk;
use crate::fixture::{Head, Llama, Named, write_weights};

/// The desk with a model called `broken`, whose tensor `name` `spoil` has changed, and questions.
fn broken(model: &Llama, name: &str, spoil: impl Fn(usize) -> Option<f32>) -> Desk {
    let desk = Desk::new();
    model.write(&desk.path("broken"));
    let mut tensors = model.tensors();
    let tensor: &mut Named = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
    for (index, bytes) in tensor.bytes.chunks_exact_mut(4).enumerate() {
        if let Some(value) = spoil(index) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    write_weights(&desk.path("broken"), &tensors, 1);
    let question = |i: usize| json!({"question": "w5 w6", "passage": "w7 w8 w9", "label": i % 2, "idx": i});
    let lines = (0..9).map(|i| question(i).to_string() + "\n");
    fs::write(desk.path("boolq.jsonl"), lines.collect::<String>()).unwrap();
    desk
}

const BOOLQ: &str = "eval broken --tasks boolq --data-dir boolq.jsonl";
const TEXT: &str = "eval broken --tasks text:text.jsonl";
const SAMPLE: &str = "sample broken --prompt w5 --tokens 3";
const BENCH: &str = "bench broken --prompt-tokens 5 --tokens 3 --repetitions 1";
const ANALYZE: &str = "analyze broken --data text.jsonl";
const HEAL: &str = "heal broken --data text.jsonl --eval-data text.jsonl --seq-len 8 --steps 2 --batch 2 -o healed";

#[test]
fn head_and_final_norm() {
    let model = Llama::default();
    for bad in [f32::NAN, f32::INFINITY] {
        // one number of the last token's row, which no answer asks for
        let last = model.vocab * model.hidden - 3;
        let desk = broken(&model, "lm_head.weight", |index| (index == last).then_some(bad));
        for (line, place) in [
            (BOOLQ, "boolq, document 0, token "),
            (TEXT, "text_text, document "),
            (SAMPLE, "token "),
            (BENCH, "token "),
        ] {
            desk.refused(line, 1, &[place, "tensor lm_head.weight holds non-finite values"]);
        }
        // an analysis has no use for the head
        assert!(desk.run(ANALYZE).status.success());

        let desk = broken(&model, "model.norm.weight", |index| (index == 2).then_some(bad));
        for line in [BOOLQ, TEXT, SAMPLE, BENCH] {
            desk.refused(line, 1, &["token ", "tensor model.norm.weight holds non-finite values"]);
        }
    }
    let tied = Llama { head: Head::Tied, ..model };
    let last = tied.vocab * tied.hidden - 3;
    let desk = broken(&tied, "model.embed_tokens.weight", |index| (index == last).then_some(f32::NAN));
    desk.refused(BOOLQ, 1, &["boolq, document 0", "tensor model.embed_tokens.weight holds non-finite values"]);
}

#[test]
fn finite_weights_that_overflow() {
    let model = Llama::default();
    let desk = broken(&model, "model.norm.weight", |_| Some(2e38));
    for line in [BOOLQ, TEXT, SAMPLE, BENCH] {
        desk.refused(line, 1, &["token ", "gives non-finite values although its weights are finite"]);
    }
    // losses that are numbers, of perplexities that are none
    let desk = broken(&model, "model.norm.weight", |_| Some(1e19));
    desk.refused(TEXT, 1, &["text_text", "word_perplexity is larger than a number can be"]);
    let desk = broken(&model, "model.layers.2.mlp.down_proj.weight", |_| Some(3e38));
    for line in [BOOLQ, TEXT, SAMPLE, BENCH, ANALYZE] {
        desk.refused(line, 1, &["token ", "layer 2 gives non-finite values although its weights are finite"]);
    }
}

#[test]
fn layers_and_embedding() {
    let model = Llama::default();
    let name = "model.layers.1.self_attn.v_proj.weight";
    let desk = broken(&model, name, |index| (index == 7).then_some(f32::NAN));
    for (line, place) in [
        (BOOLQ, "boolq, document 0, token "),
        (TEXT, "text_text, document "),
        (ANALYZE, "text 0, token "),
        (SAMPLE, "token "),
        (BENCH, "token "),
    ] {
        desk.refused(line, 1, &[place, "tensor model.layers.1.self_attn.v_proj.weight holds non-finite values"]);
    }
    // w8 alone, a word of the passage
    let row = 8 * model.hidden;
    let desk = broken(&model, "model.embed_tokens.weight", |index| (index == row).then_some(f32::NAN));
    desk.refused(BOOLQ, 1, &["boolq, document 0, token ", "tensor model.embed_tokens.weight"]);
}

#[test]
fn validation_of_a_healing() {
    let model = Llama::default();
    let desk = broken(&model, "model.norm.weight", |_| Some(2e38));
    let output = desk.run(HEAL);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("text 0, token 0 (from 0)") && said.contains("gives non-finite values"), "{said}");
}
