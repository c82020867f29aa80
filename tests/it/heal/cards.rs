//! What healed, merged and adapter directories say of themselves.

use std::fs;

use prune::provenance::Provenance;
use serde_json::json;

use crate::fixture::desk::Desk;

const HEAL: &str = "heal small --data texts/text.jsonl --eval-data texts/text.jsonl --seq-len 16 --rank 2 --batch 2 \
                    --steps 3 --warmup 1";

fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir(desk.path("texts")).unwrap();
    fs::copy(desk.path("text.jsonl"), desk.path("texts/text.jsonl")).unwrap();
    desk.json("cut model --drop 1-2 -o small --json");
    desk
}

fn card(desk: &Desk, dir: &str) -> String {
    let text = fs::read_to_string(desk.path(dir).join("README.md")).unwrap();
    // nothing on the hub is known of it, and no directory is anybody else's business
    let here = desk.path("");
    for word in ["base_model", "texts/", here.to_str().unwrap()] {
        assert!(!text.contains(word), "{dir}: {word}: {text}");
    }
    for word in ["license: mit\n", "# model, 2 of 4 layers", "2 of its 4 decoder layers removed: 1..=2", "## Usage"] {
        assert!(text.contains(word), "{dir}: {word}: {text}");
    }
    text
}

fn steps(desk: &Desk, dir: &str) -> Vec<String> {
    let history = Provenance::read(&desk.path(dir), 2).unwrap().unwrap();
    assert_eq!((history.origin.id.as_str(), history.layers), ("model", vec![0, 3]), "{dir}");
    history.steps.iter().map(|step| step["step"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_directory_says_where_it_comes_from() {
    let desk = desk();
    let report = desk.json(&format!("{HEAL} --save-4bit -o healed --json"));
    let measured = &report["result"]["measured"];
    for (dir, library) in [("healed/merged", "transformers"), ("healed/adapter", "peft")] {
        let card = card(&desk, dir);
        assert!(card.contains(&format!("library_name: {library}\n")), "{card}");
        assert!(
            card.contains("Healed on text.jsonl: LoRA of rank 2 on mlp, the weights held in NF4 (QLoRA)"),
            "{card}"
        );
        for (name, key) in [("uncut", "uncut"), ("cut", "cut"), ("healed, as written", "healed")] {
            let row = format!("| {name} | {:.4} |\n", measured[key].as_f64().unwrap());
            assert!(card.contains(&row), "{dir}: {row}: {card}");
        }
        assert_eq!(steps(&desk, dir), ["cut", "heal"]);
    }
    assert!(card(&desk, "healed/adapter").contains("prune cut model --drop 1..=2 -o MODEL"));
    let four_bit = card(&desk, "healed/base-4bit");
    assert!(four_bit.contains("in four bits") && !four_bit.contains("## Healing"), "{four_bit}");
    assert_eq!(steps(&desk, "healed/base-4bit"), ["cut", "quantize"]);

    // merged by hand, it knows how its adapter was trained
    desk.json("merge small --adapter healed/adapter -o by-hand --json");
    let by_hand = card(&desk, "by-hand");
    assert!(
        by_hand.contains("The adapter `adapter` was merged") && by_hand.contains("| healed, as written |"),
        "{by_hand}"
    );
    assert_eq!(steps(&desk, "by-hand"), ["cut", "heal", "merge"]);

    // what is healed again, or cut again, goes on with the history, and the uncut model is still known
    desk.json("cut healed/merged --drop 0 -o smaller --json");
    let history = Provenance::read(&desk.path("smaller"), 1).unwrap().unwrap();
    assert_eq!((history.layers, history.steps.len()), (vec![3], 3));
    let card = fs::read_to_string(desk.path("smaller/README.md")).unwrap();
    assert!(card.contains("what was trained before is in `prune.json`"), "{card}");
    let again = desk.json(&format!("{} -o again --json", HEAL.replace("heal small", "heal healed/merged")));
    assert_eq!(again["result"]["measured"]["uncut"], measured["uncut"]);
}

/// What stands in the way of a healing is told as what it is.
#[test]
fn an_output_that_is_the_model() {
    let desk = desk();
    desk.refused(&format!("{HEAL} -o small"), 2, &["small: the output would replace its source"]);
}

/// The same healing gives the same card, and a last layer trained whole is told as what it is.
#[test]
fn cards_are_as_their_settings() {
    let desk = desk();
    let heal = HEAL.replace(" --rank 2", "");
    for out in ["one", "two"] {
        desk.json(&format!("{heal} --train lm-head+last1 -o {out} --json"));
    }
    let one = card(&desk, "one/merged");
    assert_eq!(one, card(&desk, "two/merged"));
    assert!(
        one.contains("the head, the final norm and the last 1 layers trained whole; 3 steps of 2 sequences"),
        "{one}"
    );
    let read = |dir: &str| fs::read(desk.path(dir).join("merged/prune.json")).unwrap();
    assert_eq!(read("one"), read("two"));
    let history: serde_json::Value = serde_json::from_slice(&read("one")).unwrap();
    assert_eq!(history["steps"][1]["settings"]["data"], json!("text.jsonl"));
}
