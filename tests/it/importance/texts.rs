//! Several texts in one analysis: each as it is alone, all together as their mean, and what the one costs on the other.

use std::fs;

use prune::importance::{Analysis, Choice, Scores};
use serde_json::json;

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

const TEXTS: [&str; 3] = ["text.jsonl", "code.jsonl", "chats.jsonl"];
const ALL: &str = "analyze model --data text.jsonl --data code.jsonl --data chats.jsonl";

/// A model of six layers and three texts, of different words, numbers of documents and lengths.
fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    for (name, documents, step) in [("code.jsonl", 5, 11), ("chats.jsonl", 9, 3)] {
        let lines = (0..documents).map(|line| {
            let word = |word: usize| format!("w{}", 3 + (word * step + line * line) % 37);
            let words: Vec<String> = (0..5 + 6 * line).map(word).collect();
            json!({"text": words.join(" ")}).to_string() + "\n"
        });
        fs::write(desk.path(name), lines.collect::<String>()).unwrap();
    }
    desk
}

fn analysis(desk: &Desk, line: &str, out: &str) -> Analysis {
    let output = desk.run(&format!("{line} -o {out} --quiet"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Analysis::read(&desk.path(out).join("analysis.json")).unwrap()
}

fn near(all: &[Vec<f64>], each: &[&Vec<Vec<f64>>], of: &dyn Fn(&[f64]) -> f64, what: &str) {
    for (n, row) in all.iter().enumerate() {
        for (at, found) in row.iter().enumerate() {
            let values: Vec<f64> = each.iter().map(|rows| rows[n][at]).collect();
            let expected = of(&values);
            assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{what} {n} {at}: {found} {expected}");
        }
    }
}

/// Means are those of the separate runs' means, errors the root of the squares over three.
fn is_mean(all: &Scores, each: &[&Scores]) {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let error = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt() / values.len() as f64;
    near(&all.mean, &each.iter().map(|own| &own.mean).collect::<Vec<_>>(), &mean, &all.metric);
    assert_eq!(all.stderr.is_some(), each.iter().all(|own| own.stderr.is_some()), "{}", all.metric);
    if let Some(stderr) = &all.stderr {
        let each: Vec<_> = each.iter().map(|own| own.stderr.as_ref().unwrap()).collect();
        near(stderr, &each, &error, &all.metric);
    }
}

/// The analysis of all texts, after holding it to those of each text alone.
fn as_alone(desk: &Desk, flags: &str) -> Analysis {
    let all = analysis(desk, &format!("{ALL} {flags}"), "all");
    let alone: Vec<Analysis> = TEXTS
        .iter()
        .map(|text| analysis(desk, &format!("analyze model --data {text} {flags}"), text.split_once('.').unwrap().0))
        .collect();
    assert_eq!(all.texts.len(), 3);
    for (text, alone) in all.texts.iter().zip(&alone) {
        assert_eq!(text.data, alone.data, "{flags}");
        assert_eq!(text.best, alone.search.best, "{flags}");
        let bytes = |scores: &[Scores]| serde_json::to_string(scores).unwrap();
        assert!(bytes(&text.scores) == bytes(&alone.scores), "{flags}: scores of {}", text.data.source);
    }
    for (place, scores) in all.scores.iter().enumerate() {
        is_mean(scores, &alone.iter().map(|own| &own.scores[place]).collect::<Vec<_>>());
    }
    let sum = |of: fn(&Analysis) -> u64| alone.iter().map(of).sum::<u64>();
    assert_eq!(all.data.tokens, sum(|own| own.data.tokens));
    assert_eq!(all.data.samples as u64, sum(|own| own.data.samples as u64));
    assert_eq!(all.data.source, TEXTS.join(", "));
    for name in ["text", "code", "chats"] {
        fs::remove_dir_all(desk.path(name)).unwrap();
    }
    all
}

#[test]
fn each_text_is_as_alone_and_all_are_their_mean() {
    let desk = desk();
    for flags in [
        "--layers 2",
        "--metrics taylor,magnitude,gate,logit-lens,outliers,cka,js,sublayer-loss,quiet-on-both --samples 4",
        "--method shapley --subsets 3",
        "--method shortgpt --packing packed --seq-len 16 --seed 3 --layers 3",
        "--method exact-block --layers 2",
    ] {
        let all = as_alone(&desk, flags);
        assert_eq!(all.agreement.len(), 5, "{flags}");
        assert!(all.agreement.iter().all(|agreement| agreement.transfers.len() == 9));
        fs::remove_dir_all(desk.path("all")).unwrap();
    }
}

#[test]
fn searches_and_short_lists_are_made_of_each_text_and_of_all() {
    let desk = desk();
    for flags in [
        "--method sleb --layers 3",
        "--method beam --layers 2",
        "--method finercut --layers 1",
        "--layers 2 --rerank 3",
        "--max-loss +9",
    ] {
        let all = as_alone(&desk, flags);
        let regrets = all.agreement.iter().flat_map(|agreement| &agreement.transfers);
        assert!(regrets.clone().all(|transfer| transfer.regret_stderr.is_some()), "{flags}");
        let n = all.plan.as_ref().unwrap().dropped().len();
        let loss = |best: &[Choice]| best.get(n.saturating_sub(1)).and_then(|choice| choice.loss).map(|loss| loss.mean);
        if flags.starts_with("--max-loss") {
            // each choice of all texts costs the mean of what it costs on each, where theirs is the same
            let same = all.texts.iter().all(|text| text.best[n - 1].drop == all.search.best[n - 1].drop);
            let mean = all.texts.iter().map(|text| loss(&text.best).unwrap()).sum::<f64>() / 3.0;
            assert!(!same || (mean - loss(&all.search.best).unwrap()).abs() < 1e-12);
        }
        let bytes = fs::read(desk.path("all/analysis.json")).unwrap();
        let again = analysis(&desk, &format!("{ALL} {flags} --threads 1 --memory 160MiB"), "again");
        assert_eq!(again, all);
        assert!(bytes == fs::read(desk.path("again/analysis.json")).unwrap(), "{flags}");
        fs::remove_dir_all(desk.path("all")).unwrap();
        fs::remove_dir_all(desk.path("again")).unwrap();
    }
}

/// A plan of several texts is a plan: it is cut and replanned as any.
#[test]
fn the_plan_of_all_texts_is_followed_as_any() {
    let desk = desk();
    let all = analysis(&desk, &format!("{ALL} --layers 2 --csv scores.csv"), "all");
    assert_eq!(all.plan.as_ref().unwrap().why["data"], json!(TEXTS));
    let csv = fs::read_to_string(desk.path("scores.csv")).unwrap();
    assert!(csv.starts_with("metric,n,l,end,mean,stderr,text\n"));
    let values: usize = all.scores.iter().map(|scores| scores.mean.iter().map(Vec::len).sum::<usize>()).sum();
    assert_eq!(csv.lines().count(), 1 + 4 * values);
    assert_eq!(csv.lines().filter(|line| line.ends_with(",\"code.jsonl\"")).count(), values);
    let report = desk.json("cut model --plan all/analysis.json -o small --json");
    assert_eq!(report["layers"]["after"], 4);
    let card = fs::read_to_string(desk.path("small/README.md")).unwrap();
    assert!(card.contains("data text.jsonl + code.jsonl + chats.jsonl"), "{card}");
    // another score from the file is as from the texts
    let from = analysis(&desk, "analyze --from all/analysis.json --metric cosine --layers 3", "from");
    let direct = analysis(&desk, &format!("{ALL} --metric cosine --layers 3"), "direct");
    assert_eq!((&from.texts, &from.agreement, &from.search), (&direct.texts, &direct.agreement, &direct.search));
    assert_eq!(from.plan, direct.plan);
    assert_ne!(from.agreement, all.agreement);
    // a file that does not hold together
    for (at, broken) in [
        ("/texts/1/best/0/drop", json!([6])),
        ("/texts/1/scores/0/mean/0", json!([1.0])),
        ("/texts/2/data/samples", json!(0)),
        ("/texts/0/scores", json!([])),
        ("/agreement/0/n", json!(9)),
        ("/agreement/0/metric", json!("best")),
        ("/agreement/1/transfers/0/on", json!(3)),
        ("/agreement/1/transfers/0/jaccard", json!(1.5)),
        ("/agreement/1/transfers/0/regret_stderr", json!(-1.0)),
        ("/texts", json!([])),
    ] {
        let mut value = read(&desk.path("all/analysis.json"));
        *value.pointer_mut(at).unwrap() = broken;
        assert!(Analysis::from_value(value).is_err(), "{at}");
    }
}

#[test]
fn a_person_sees_who_would_drop_what() {
    let desk = desk();
    let all = analysis(&desk, &format!("{ALL} --layers 2"), "all");
    let said = String::from_utf8(desk.run("analyze --from all/analysis.json --layers 2").stdout).unwrap();
    for (number, text) in all.texts.iter().enumerate() {
        let strip: String = (0..6).map(|layer| if text.best[1].drop.contains(&layer) { 'x' } else { '·' }).collect();
        let is_it = |line: &&str| line.trim_start().starts_with(&format!("{}  {}", number + 1, text.data.source));
        assert!(said.lines().find(is_it).unwrap().contains(&strip), "{said}");
    }
    assert_eq!(said.lines().filter(|line| line.contains(" of 2 ")).count(), 9, "{said}");
    assert!(said.contains("Jaccard") && said.contains("angular above its own"), "{said}");
    let every = String::from_utf8(desk.run(ALL).stdout).unwrap();
    assert!(every.contains("in every one"), "{every}");
    for agreement in &all.agreement {
        let common = format!("{} of {}", agreement.in_all.len(), agreement.n);
        let is_it =
            |line: &&str| line.trim_start().starts_with(&format!("{}  ", agreement.n)) && line.contains(&common);
        assert!(every.lines().any(|line| is_it(&line)), "{common}: {every}");
    }

    let ahead = desk.json(&format!("{ALL} --method sleb --layers 2 -o out --dry-run --json"));
    let sources: Vec<&str> =
        ahead["pass"]["texts"].as_array().unwrap().iter().map(|text| text["source"].as_str().unwrap()).collect();
    assert_eq!(sources, TEXTS);
    let tokens: u64 = all.texts.iter().map(|text| text.data.tokens).sum();
    assert_eq!(ahead["pass"]["tokens"], tokens);
    let once = desk.json("analyze model --data text.jsonl --method sleb --layers 2 --dry-run --json");
    assert_eq!(once["pass"].get("texts"), None);
    let passes = |report: &serde_json::Value| report["pass"]["layer_passes"].as_u64().unwrap();
    // twice the search, and the whole model with four choices of each size; the scores cost what they cost
    assert!(passes(&ahead) > passes(&once) && passes(&ahead) <= 2 * passes(&once) + 6 + 4 * 5 + 4 * 4);
    assert!(!desk.path("out").exists());
    let said = String::from_utf8(desk.run(&format!("{ALL} --dry-run")).stdout).unwrap();
    assert!(TEXTS.iter().all(|text| said.contains(text)), "{said}");
}

#[test]
fn a_list_in_a_file_means_the_same() {
    let desk = desk();
    let line = |list: &str| format!("model = \"model\"\n[analyze]\nmodel = \"model\"\ndata = {list}\nlayers = 1\n");
    fs::create_dir(desk.path("kept")).unwrap();
    fs::rename(desk.path("code.jsonl"), desk.path("kept/code.jsonl")).unwrap();
    fs::write(desk.path("kept/a.toml"), line("[\"text.jsonl\", \"code.jsonl\"]")).unwrap();
    let report = desk.json("analyze --config kept/a.toml --json");
    let texts = report["analysis"]["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 2);
    // beside the file where it is there
    assert!(texts[1]["data"]["source"].as_str().unwrap().ends_with("kept/code.jsonl"));
    // a flag is instead of the list, and a list of one is that one
    let one = desk.json("analyze --config kept/a.toml --data chats.jsonl --json")["analysis"].clone();
    assert_eq!((&one["data"]["source"], one.get("texts")), (&json!("chats.jsonl"), None));
    fs::write(desk.path("kept/a.toml"), line("[\"chats.jsonl\"]")).unwrap();
    assert_eq!(desk.json("analyze --config kept/a.toml --json")["analysis"], one);
    for (list, fault) in [("[]", "at least one"), ("3", "a string or a list of strings"), ("[3]", "string")] {
        fs::write(desk.path("kept/a.toml"), line(list)).unwrap();
        desk.refused("analyze --config kept/a.toml", 2, &["data", fault]);
    }
}

#[test]
fn a_recipe_analyzes_several_texts() {
    let desk = desk();
    let recipe = "model = \"model\"\n[drop]\nlayers = [1]\nmethods = [\"similarity\"]\n[analyze]\n\
                  data = [\"text.jsonl\", \"code.jsonl\"]\nsamples = 4\n";
    fs::write(desk.path("a.toml"), recipe).unwrap();
    desk.json("run a.toml -o out --json");
    let found = Analysis::read(&desk.path("out/analysis/analysis.json")).unwrap();
    assert_eq!((found.texts.len(), found.data.samples), (2, 8));
    let ahead = desk.json("run a.toml -o out --dry-run --json");
    let is_done = |report: &serde_json::Value| {
        let stages = report["stages"].as_array().unwrap().clone();
        stages.iter().find(|stage| stage["name"] == "analysis").unwrap()["is_done"].clone()
    };
    assert_eq!(is_done(&ahead), true);
    // another text in the place of one
    fs::copy(desk.path("chats.jsonl"), desk.path("code.jsonl")).unwrap();
    assert_eq!(is_done(&desk.json("run a.toml -o out --dry-run --json")), false);
}

#[test]
fn what_cannot_be_is_refused() {
    let desk = desk();
    fs::write(desk.path("short.jsonl"), "{\"text\": \"\"}\n{\"text\": \" \"}\n").unwrap();
    fs::write(desk.path("bad.jsonl"), "{\"text\": 3}\n").unwrap();
    let two = "analyze model --data text.jsonl --data";
    for (line, code, words) in [
        (format!("{two} text.jsonl"), 2, vec!["--data text.jsonl is given twice"]),
        (format!("{two} ./text.jsonl -o out"), 2, vec!["./text.jsonl is the same as text.jsonl"]),
        (format!("{two} code.jsonl --method policy"), 2, vec!["policy", "2 texts", "greedy or beam"]),
        (format!("{two} nothing.jsonl -o out"), 2, vec!["nothing.jsonl"]),
        (format!("{two} bad.jsonl"), 1, vec!["bad.jsonl"]),
        (format!("{two} short.jsonl"), 1, vec!["short.jsonl", "too little text"]),
        (format!("{two} code.jsonl --layers 6"), 2, vec!["6"]),
        (format!("{two} code.jsonl --memory 1MiB"), 2, vec!["--memory"]),
        ("analyze --from a.json --data text.jsonl --data code.jsonl".to_owned(), 2, vec!["--data"]),
        ("cut model --drop 1 --repair refit --data text.jsonl --data code.jsonl -o out".to_owned(), 2, vec!["--data"]),
    ] {
        let output = desk.run(&line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{line}: {said}");
        assert!(!desk.path("out").exists() && output.stdout.is_empty(), "{line}");
    }
}
