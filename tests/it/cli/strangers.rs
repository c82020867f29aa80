//! Names that strangers chose, wherever they are printed: no character of them steers the terminal, and no message is
//! longer than a screen.

use std::fs;

use serde_json::{Value, json};

use crate::fixture::desk::Desk;
use crate::fixture::{Llama, Named, write_json, write_safetensors, write_weights};

/// Title, clear screen, a second line, the other direction, a C1 control sequence, a line separator, delete.
const ODD: &str = "x\u{1b}]0;pwned\u{7}\u{1b}[2J\rerror: all is well\n\u{202e}\u{9b}31m\u{2028}\u{7f}y";

/// Runs `line`; what it printed has no character that does more than be seen. Returns it.
fn seen(desk: &Desk, line: &str) -> String {
    let output = desk.run(line);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
    assert!(!text.contains(odd), "{line}: {text:?}");
    assert!(text.lines().all(|line| !line.starts_with("error: all is well")), "{line}: {text}");
    assert!(text.lines().all(|line| line.chars().count() <= 2100), "{line}: a message of {} bytes", text.len());
    text
}

/// As [`seen`]; the name was in it, escaped.
fn named(desk: &Desk, line: &str) {
    let text = seen(desk, line);
    assert!(text.contains("]0;pwned"), "{line}: the name is not in {text}");
}

fn odd_tensor(name: &str) -> Named {
    Named { name: name.into(), dtype: safetensors::Dtype::F32, shape: vec![2], bytes: vec![0; 8] }
}

#[test]
fn names_of_tensors_and_shards() {
    let desk = Desk::new();
    let mut tensors = Llama::default().tensors();
    tensors.push(odd_tensor(ODD));
    write_weights(&desk.path("model"), &tensors, 1);
    // unused
    named(&desk, "analyze model --data text.jsonl");
    tensors.push(odd_tensor(&format!("model.layers.9.{ODD}")));
    write_weights(&desk.path("model"), &tensors, 1);
    seen(&desk, "cut model --drop 1 -o small");
    fs::remove_file(desk.path("model/model.safetensors")).unwrap();
    write_weights(&desk.path("model"), &Llama::default().tensors(), 2);
    let index = desk.path("model/model.safetensors.index.json");
    let mut lists: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    lists["weight_map"][ODD] = json!("model-00001-of-00002.safetensors");
    write_json(&index, &lists);
    named(&desk, "cut model --drop 1 -o small");
    lists["weight_map"][ODD] = json!(format!("{ODD}.safetensors"));
    write_json(&index, &lists);
    named(&desk, "cut model --drop 1 -o other");
    let header = json!({ODD: {"dtype": "F32", "shape": [1], "data_offsets": [0, 9]}}).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 9]].concat();
    fs::remove_file(index).unwrap();
    fs::write(desk.path("model/model.safetensors"), file).unwrap();
    named(&desk, "cut model --drop 1 -o other");
}

#[test]
fn keys_and_values_of_configs() {
    for (key, value) in [
        ("model_type", json!(ODD)),
        ("hidden_act", json!(ODD)),
        ("layer_types", json!([ODD, ODD, ODD, ODD])),
        (ODD, json!([1, 2, 3, 4])),
        ("rope_scaling", json!({"rope_type": ODD})),
        ("ignore", json!([format!("model.layers.1.{ODD}"), format!("re:model.layers.*{ODD}")])),
        ("num_hidden_layers", json!(ODD)),
    ] {
        let desk = Desk::new();
        // a class that is known would say the family without it
        desk.config("architectures", Value::Null);
        desk.config(key, value);
        named(&desk, "cut model --drop 1 -o small");
    }
    let desk = Desk::new();
    desk.config(ODD, json!({"layer_types": [ODD, ODD, ODD, ODD]}));
    // printed as an edit, not as a fault
    for line in ["cut model --drop 1 --dry-run", "cut model --drop 1 --dry-run --json", "cut model --drop 1 -o small"] {
        named(&desk, line);
    }
    let mut tensors = Llama::default().tensors();
    tensors.push(odd_tensor("model.layers.0.mlp.up_proj.scales"));
    write_safetensors(&desk.path("model/model.safetensors"), &tensors);
    desk.config("quantization_config", json!({"quant_method": ODD}));
    named(&desk, "cut model --drop 1 -o other");
}

#[test]
fn fields_recipes_and_adapters() {
    let desk = Desk::new();
    fs::write(desk.path("odd.jsonl"), json!({ODD: 1}).to_string() + "\n").unwrap();
    named(&desk, "analyze model --data odd.jsonl");
    let key = json!(ODD).to_string().replace('\u{7f}', "\\u007f");
    for text in [
        format!("{key} = 1\n"),
        format!("metric = {key}\n"),
        format!("[analyze]\n{key} = 1\n"),
        "a = 1\na = 2\n".to_owned(),
        "model = \n[x\n".to_owned(),
    ] {
        fs::write(desk.path("recipe.toml"), text).unwrap();
        for line in ["analyze model --data text.jsonl --config recipe.toml", "run recipe.toml -o job"] {
            let said = seen(&desk, line);
            assert!(said.starts_with("error: ") && said.lines().count() == 1, "{line}: {said}");
        }
    }
    for key in ["peft_type", "bias", "task_type", "base_model_name_or_path", "target_modules"] {
        let dir = desk.path("adapter");
        fs::create_dir_all(&dir).unwrap();
        let mut config =
            json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none"});
        config[key] = json!(ODD);
        write_json(&dir.join("adapter_config.json"), &config);
        write_safetensors(&dir.join("adapter_model.safetensors"), &[odd_tensor(ODD)]);
        seen(&desk, "merge model --adapter adapter -o merged");
    }
}

#[cfg(unix)]
#[test]
fn names_of_models_in_results_and_pictures() {
    let desk = Desk::new();
    let name = ODD.replace('/', "");
    fs::rename(desk.path("model"), desk.path(&name)).unwrap();
    let run = |words: &[&str]| {
        let output = desk.command("").args(words).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(output.status.success(), "{words:?}: {text:?}");
        assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{words:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with('\u{202e}') || line.starts_with("31m")), "{text}");
    };
    run(&["analyze", &name, "--data", "text.jsonl", "--layers", "1", "-o", "analysis"]);
    run(&["analyze", "--from", "analysis/analysis.json", "--layers", "1"]);
    run(&["cut", &name, "--plan", "analysis/analysis.json", "-o", "small"]);
    run(&["eval", &name, "--tasks", "text:text.jsonl", "-o", "scores"]);
    run(&["sample", &name, "--prompt", "w5", "--tokens", "2", "--against", "small"]);
    run(&["bench", &name, "--tokens", "2", "--prompt-tokens", "4", "--repetitions", "1", "--against", "small"]);
    for figure in ["heatmap.svg", "curves.svg"] {
        let svg = fs::read_to_string(desk.path("analysis").join(figure)).unwrap();
        let odd = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{202e}' | '\u{ffff}');
        assert!(!svg.contains(odd) && svg.contains("pwned"), "{figure}");
    }
}

#[test]
fn long_names_do_not_fill_the_screen() {
    let desk = Desk::new();
    let long = "n".repeat(100_000);
    desk.config("architectures", Value::Null);
    desk.config("model_type", json!(long));
    let said = seen(&desk, "analyze model --data text.jsonl");
    assert!(said.contains('…') && said.starts_with("error: "), "{}", &said[..200]);
    let said = seen(&desk, "cut model --drop 1 -o small --verify");
    assert!(said.contains('…') && said.len() < 4000, "{}", &said[..200]);
}
