//! Requests as people get them wrong: each is refused at once, in a line that says what to do.

use std::fs;

use crate::fixture::desk::Desk;

/// What stands where in the requests: text, questions, a recipe, an adapter in a healed directory.
fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("atlas/text")).unwrap();
    fs::copy(desk.path("text.jsonl"), desk.path("atlas/text/validation.jsonl")).unwrap();
    fs::write(desk.path("recipe.toml"), "model = \"model\"\n[drop]\nlayers = [1]\nstrategies = [\"deepest\"]\n")
        .unwrap();
    fs::create_dir_all(desk.path("healed/adapter")).unwrap();
    fs::write(desk.path("healed/adapter/adapter_config.json"), "{}").unwrap();
    desk
}

#[test]
fn each_says_what_to_do() {
    let desk = desk();
    let data = "atlas/text/validation.jsonl";
    for (line, said) in [
        // mistyped paths: what was meant is named, and nobody is asked on the network
        ("cut modle --drop 1 -o a", "modle: no such directory here, did you mean model?"),
        ("cut atlas/model --drop 1 -o a", "atlas/model: no such directory"),
        ("cut ./modle --drop 1 -o a", "./modle: no such directory, did you mean ./model?"),
        (
            "analyze model --data atlas/text/validaton.jsonl",
            "no such file or directory, did you mean atlas/text/validation.jsonl?",
        ),
        ("analyze model --data atals/text/validation.jsonl", "did you mean atlas/text/validation.jsonl?"),
        ("eval model --tasks text:atlas/text/validaton.jsonl", "did you mean atlas/text/validation.jsonl?"),
        (
            "eval model --tasks boolq --data-dir atls",
            "--data-dir: atls: no such file or directory, did you mean atlas?",
        ),
        ("run recpie.toml -o job", "recpie.toml: no such file or directory, did you mean recipe.toml?"),
        ("cut model --drop 1 -o a --config recpie.toml", "did you mean recipe.toml?"),
        ("compare healde model", "healde: no such file or directory, did you mean healed?"),
        ("sample model --prompt w5 --against modle", "--against: modle: no such directory here, did you mean model?"),
        (
            "heal model --data text.jsonl -o a --teacher modle",
            "--teacher: modle: no such directory here, did you mean model?",
        ),
        // the wrong thing in the right place
        ("cut model/config.json --drop 1 -o a", "model/config.json: not a directory; the model is model"),
        ("analyze model --data model", "model: holds a model, expected text"),
        ("cut atlas --drop 1 -o a", "atlas: holds no config.json, so it is no model"),
        ("cut model --plan recipe.toml -o a", "recipe.toml: not JSON"),
        ("analyze --from text.jsonl", "text.jsonl: not JSON"),
        (
            "eval model --tasks text:text.jsonl --adapter model",
            "--adapter: model: a model, not an adapter (it has no adapter_config.json)",
        ),
        (
            "eval model --tasks text:text.jsonl --adapter healed",
            "--adapter: healed: no adapter, but it holds one: name healed/adapter",
        ),
        (
            "merge model --adapter heald/adapter -o a",
            "--adapter: heald/adapter: no such directory, did you mean healed/adapter?",
        ),
        ("compare model model", "model: holds no results of an evaluation (results_*.json)"),
        // what does not go together, or is no value
        ("cut model --drop 3-1 -o a", "--drop: the range `3-1` names no layer"),
        ("cut model --drop 1,9 -o a", "names layer 9, but the model has 4 layers (0..=3)"),
        ("cut model --fraction 25 -o a", "--fraction: fraction 25: expected a number between 0 and 1, such as 0.25"),
        (
            "heal model --data text.jsonl -o a --quant none --merge-onto quantized",
            "merge_onto = \"quantized\" goes with quant = \"nf4\"",
        ),
        ("heal model --data text.jsonl -o a --lr -1", "lr is -1, expected"),
        ("heal model --data text.jsonl -o a --memory 1MiB", "of memory, allowed are 1.0 MiB"),
        ("eval model --tasks bolq", "--tasks: there is no task \"bolq\"; did you mean boolq?"),
        (
            "run recipe.toml -o a --set steps=3",
            "steps: unknown, expected one of model, caveat; settings stand in a command's section, such as [heal]",
        ),
        ("run recipe.toml -o a --set heal.step=3", "[heal] step: unknown, did you mean steps?"),
    ] {
        desk.refused(line, 2, &[said]);
    }
    desk.refused(
        &format!("analyze model --data {data} --text-field txt"),
        2,
        &["no field `txt`, only `text`; name the text's with --text-field"],
    );
}

/// A hub that does not answer is told of where a hub was meant.
#[test]
fn no_failure_of_the_network_for_a_mistyped_directory() {
    let desk = desk();
    let said = |line: &str| {
        let mut command = desk.command(line);
        let command = command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:1");
        let output = command.env("HF_HOME", desk.path("hf")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (model, meant) in [("modle", ", did you mean model?"), ("atlas/model", "")] {
        let expected = format!("error: {model}: no such directory{meant}\n");
        assert_eq!(said(&format!("cut {model} --drop 1 -o a")), (Some(2), expected));
    }
    let (code, said) = said("cut org/name --drop 1 -o a");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("org/name: no such directory here; on the hub: org/name: it is not in the cache"), "{said}");
    assert!(said.contains("and the hub cannot be reached (http://127.0.0.1:1"), "{said}");
}

/// `ct` is nearer to `cut` than to a longer name with both letters.
#[test]
fn a_command_that_is_not_there() {
    let output = desk().run("ct model");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("'cut'") && !said.contains("doctor"), "{said}");
}
