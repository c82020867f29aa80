//! A cut of safetensors that is written as a GGUF file: the file of the cut that is converted afterwards.

use std::fs;

use prune::checkpoint::Checkpoint;
use prune::data::Tokenizer;

use super::{logits, recorded};
use crate::fixture::desk::Desk;

/// The small Llama as a directory, `whole`, and a text.
fn desk() -> Desk {
    let desk = Desk::bare();
    fs::copy(recorded("llama.gguf"), desk.path("llama.gguf")).unwrap();
    desk.json("convert llama.gguf -o whole --json");
    let row = format!("{{\"text\": \"{}\"}}\n", "the end of it all and the others there. ".repeat(8));
    fs::write(desk.path("text.jsonl"), row.repeat(32)).unwrap();
    for way in ["one", "two", "three"] {
        fs::create_dir(desk.path(way)).unwrap();
    }
    desk
}

#[test]
fn one_step_writes_the_bytes_of_two() {
    let desk = desk();
    let plain = "--drop 1-2";
    let repaired = "--drop 1-2 --repair refit --data text.jsonl --samples 32 --seq-len 32";
    let cases = [
        (plain, ""),
        (plain, "--type F16"),
        (plain, "--type BF16"),
        (plain, "--type Q8_0"),
        (plain, "--type Q4_0"),
        (plain, "--type Q4_K"),
        (plain, "--type Q6_K"),
        ("--drop attn:2,3 --format zeros", "--type Q8_0"),
        ("--drop 1-2 --repair average", "--type F16"),
        (repaired, "--type Q8_0"),
    ];
    for (at, (cut, stored)) in cases.into_iter().enumerate() {
        let name = format!("small{at}");
        desk.json(&format!("cut whole {cut} -o one/{name} --json"));
        desk.json(&format!("convert one/{name} --to gguf {stored} -o two/{name} --json"));
        let line = format!("cut whole {cut} --to gguf {stored} -o three/{name} --json");
        let told = desk.json(&format!("{line} --dry-run"));
        assert!(!desk.path(&format!("three/{name}")).exists());
        let report = desk.json(&line);
        let file = desk.path(&format!("three/{name}/model.gguf"));
        let [two, three] =
            [desk.path(&format!("two/{name}/model.gguf")), file.clone()].map(|file| fs::read(file).unwrap());
        assert!(two == three, "{cut} {stored}");
        for report in [&told, &report] {
            assert_eq!(report["disk_needed"], three.len(), "{cut} {stored}");
            assert_eq!(report["shards"][0]["file"], "model.gguf");
        }
        let name = stored.rsplit(' ').next().filter(|name| !name.is_empty()).unwrap_or("F32");
        assert_eq!((&told["type"], &report["type"]), (&name.into(), &name.into()));
        // nothing beside it but what speaks of it
        let mut beside: Vec<_> =
            fs::read_dir(file.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
        beside.retain(|name| !name.to_string_lossy().starts_with('.'));
        beside.sort();
        assert_eq!(beside, ["README.md", "model.gguf", "prune.json"]);
    }
    // what it holds runs as the cut does, with its own tokenizer
    let ids: Vec<u32> = (3..40).collect();
    assert!(logits(&desk.path("three/small0"), &ids, None) == logits(&desk.path("one/small0"), &ids, None));
    let opened = Checkpoint::open_dir(&desk.path("three/small3")).unwrap();
    assert_eq!(opened.config["num_hidden_layers"], 2);
    Tokenizer::open(&opened.source.dir).unwrap();
    assert!(opened.source.dir.join("chat_template.jinja").is_file());
    let card = fs::read_to_string(desk.path("three/small3/README.md")).unwrap();
    assert!(card.contains("matrices in Q8_0") && card.contains("--drop 1..=2 --to gguf --type Q8_0 -o DIR"), "{card}");
    assert!(card.contains("- gguf\n---\n") && card.contains("gguf_file=\"model.gguf\")\n```"), "{card}");
    assert!(card.contains("llama-cli -m model.gguf"), "{card}");
    let history = crate::fixture::desk::read(&desk.path("three/small3/prune.json"));
    assert_eq!((&history["steps"][1]["settings"]["type"], &history["layers"]), (&"Q8_0".into(), &[0, 3][..].into()));
}

#[test]
fn what_a_gguf_file_cannot_be_is_refused_before_it_starts() {
    let desk = desk();
    let cut = "cut whole --drop 1-2 -o no";
    desk.refused(&format!("{cut} --to gguf --verify"), 2, &["--verify", "leave one out"]);
    desk.refused(&format!("{cut} --to safetensors --type Q8_0"), 2, &["--type Q8_0 goes with --to gguf"]);
    desk.refused("cut llama.gguf --drop 1 --to gguf --type Q8_0 -o no", 2, &["--type Q8_0", "blocks as they are"]);
    let maps = "--repair reduced-rank --rank 8 --data text.jsonl --samples 32 --seq-len 32";
    desk.refused(&format!("{cut} --to gguf {maps}"), 2, &["--repair reduced-rank", "maps"]);
    desk.refused("cut whole --drop attn:2 --format per-layer --to gguf -o no --dry-run", 2, &["lack their attention"]);
    let recipe = "model = \"whole\"\n[drop]\ngiven = [\"1\"]\n[cut]\nto = \"gguf\"\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    desk.refused("run recipe.toml --dry-run", 2, &["[cut] to = \"gguf\"", "prune convert"]);
    fs::remove_file(desk.path("whole/tokenizer.json")).unwrap();
    desk.refused(&format!("{cut} --to gguf --dry-run"), 2, &["--to gguf", "holds its tokenizer"]);
    assert!(!desk.path("no").exists());
}

/// A recipe writes a cut again when it is to be in another container.
#[test]
fn a_run_heeds_the_container() {
    let desk = desk();
    let recipe = "model = \"llama.gguf\"\n[drop]\ngiven = [\"1\"]\n[cut]\nto = \"safetensors\"\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    let kinds = || {
        let cut = fs::read_dir(desk.path("job/given-1/model")).unwrap();
        let names = cut.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.rsplit_once('.').map(|(_, kind)| kind.to_owned())).collect::<Vec<_>>()
    };
    desk.json("run recipe.toml -o job --json");
    assert!(kinds().iter().any(|kind| kind == "safetensors") && kinds().iter().all(|kind| kind != "gguf"));
    desk.json("run recipe.toml -o job --set cut.to=gguf --json");
    assert!(kinds().iter().any(|kind| kind == "gguf") && kinds().iter().all(|kind| kind != "safetensors"));
}
