//! The state of a healing that was stopped is a file that anybody may have changed.

use std::fs;
use std::path::Path;

use prune::Error;
use prune::commands::heal::heal;
use prune::data::Packing;
use prune::heal::{HealSettings, WorkDir};
use prune::progress::Silent;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::fixture::desk::Desk;
use crate::fixture::impatient::Impatient;

/// The state with another place, as `change` makes it.
fn moved(state: &Path, good: &[u8], change: &dyn Fn(&mut Value)) {
    let file = SafeTensors::deserialize(good).unwrap();
    let mut place: Value = serde_json::from_slice(file.tensor("place.json").unwrap().data()).unwrap();
    change(&mut place);
    let place = place.to_string();
    let text = TensorView::new(safetensors::Dtype::U8, vec![place.len()], place.as_bytes()).unwrap();
    let others = file.iter().filter(|(name, _)| *name != "place.json");
    let all: Vec<_> = others.chain([("place.json", text)]).collect();
    fs::write(state, safetensors::serialize(all, None).unwrap()).unwrap();
}

#[test]
fn a_place_where_no_run_can_be_is_refused() {
    let desk = Desk::new();
    let text = |name: &str| Some(desk.path(name).display().to_string());
    let settings = HealSettings {
        model: text("model"),
        data: text("text.jsonl").into_iter().collect(),
        packing: Some(Packing::Packed),
        steps: 4,
        batch: 1,
        seq_len: Some(8),
        out: Some(desk.path("out")),
        adapter_only: true,
        ..HealSettings::default()
    };
    let impatient = Impatient::default();
    let stopped = impatient.interrupt.run(|| heal(&settings, &impatient));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let state = WorkDir::place(&desk.path("out")).join("state.safetensors");
    let good = fs::read(&state).unwrap();
    type Change = Box<dyn Fn(&mut Value)>;
    let set = |pointer: &'static str, value: Value| -> Change {
        Box::new(move |place| *place.pointer_mut(pointer).unwrap() = value.clone())
    };
    let wrong: [(Change, &str); 9] = [
        (set("/step", json!(9)), "of step 9"),
        (set("/step", json!(u64::MAX)), "done so much"),
        (set("/tokens", json!(u64::MAX)), "done so much"),
        (set("/spending/tokens_at_once", json!(0)), "0 tokens at a time"),
        (set("/spending/layers_kept", json!(u64::MAX)), "so many layers"),
        (set("/validation_tokens", json!(0)), "0 tokens at a time"),
        (set("/position/epoch", json!(u64::MAX)), "saved place in the text"),
        (set("/position/carry", json!(vec![3; 8])), "saved place in the text"),
        (set("/position/carry", json!([1_000_000])), "saved place in the text"),
    ];
    for (change, words) in wrong {
        moved(&state, &good, &change);
        let log = state.with_file_name("log.jsonl");
        let (lines, last) = (fs::read_to_string(&log).unwrap(), json!({"step": 9, "val_loss": 1.0}));
        // a log that speaks for it
        fs::write(&log, format!("{lines}{last}\n")).unwrap();
        let error = heal(&settings, &Silent).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("begin"), "{error}");
        fs::write(&log, lines).unwrap();
    }
    fs::write(&state, good).unwrap();
    assert_eq!(heal(&settings, &Silent).unwrap().steps_before, 2);
}
