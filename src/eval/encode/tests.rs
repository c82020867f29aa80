//! Tokens as the reference has them.

use super::*;
use crate::eval::prompts::tests::{GOLDEN, golden_data, golden_prompts};
use crate::eval::room::Room;

fn taken() -> Taken {
    Room::new(u64::MAX).taken()
}

fn whole(request: &TokenRequest) -> (Vec<u32>, Vec<u32>) {
    let ScoredTargets::Sequence(targets) = &request.targets else { panic!("a continuation") };
    (request.input[..=request.from].to_vec(), targets.clone())
}

#[test]
fn every_golden_token() {
    let Some(folder) = golden_data() else { return };
    let text = std::fs::read_to_string(format!("{GOLDEN}/requests.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    for (name, mode, bos) in [
        ("tok-l3", "default", None),
        ("tok-l3", "nobos", Some(false)),
        ("tok-l2", "default", None),
        ("tok-l2", "nobos", Some(false)),
    ] {
        let tokenizer = Tokenizer::open(format!("{GOLDEN}/model-{name}")).unwrap();
        let encoder = Encoder::new(&tokenizer, None, bos, 2048, false).unwrap();
        for task in golden["tasks"].as_array().unwrap() {
            let shots = task["num_fewshot"].as_u64().unwrap() as usize;
            let prompts = golden_prompts(folder.path(), task["task"].as_str().unwrap(), shots);
            let mut requests = task["requests"].as_array().unwrap().iter();
            for document in &prompts.documents {
                let asked = encoder.document(document, taken()).unwrap();
                let tokens = |request: &serde_json::Value, what: &str| -> Vec<u32> {
                    serde_json::from_value(request["tokens"][format!("{name}/{mode}")][what].clone()).unwrap()
                };
                match &document.requests[0] {
                    Request::LogLikelihood { .. } => {
                        for request in &asked.requests {
                            let golden = requests.next().unwrap();
                            let expected = (tokens(golden, "context_enc"), tokens(golden, "continuation_enc"));
                            assert_eq!(whole(request), expected, "{name} {mode} {} {}", task["task"], document.id);
                            compared += 1;
                        }
                    }
                    _ => {
                        let list = tokens(requests.next().unwrap(), "token_list");
                        assert_eq!(asked.lead, bos.is_none());
                        let predicted: Vec<u32> = asked.requests.iter().flat_map(|r| whole(r).1).collect();
                        assert_eq!(predicted, list, "{name} {mode} {}", task["task"]);
                        let bos = tokenizer.bos().unwrap();
                        assert_eq!(*asked.requests[0].input, *[&[bos], &list[..list.len() - 1]].concat());
                        compared += 1;
                    }
                }
            }
            assert!(requests.next().is_none());
        }
    }
    assert_eq!(compared, 4 * 169);
}

#[test]
fn long_prompts_lose_their_beginning() {
    let Some(folder) = golden_data() else { return };
    let tokenizer = Tokenizer::open(format!("{GOLDEN}/model-tok-l3")).unwrap();
    let prompts = golden_prompts(folder.path(), "mmlu_abstract_algebra", 5);
    let asked =
        |length| Encoder::new(&tokenizer, None, None, length, false).unwrap().document(&prompts.documents[0], taken());
    let (long, short) = (asked(2048).unwrap(), asked(96).unwrap());
    assert_eq!((short.requests[0].input.len(), short.requests[0].from, long.truncated), (96, 95, 0));
    assert_eq!(*short.requests[0].input, long.requests[0].input[short.truncated..]);
    let choices = &golden_prompts(folder.path(), "hellaswag", 0).documents[0];
    let error = Encoder::new(&tokenizer, None, None, 4, false).unwrap().document(choices, taken()).unwrap_err();
    assert!(error.to_string().contains("the model reads at most 4"), "{error}");
}

#[test]
fn version_0_4_0_and_the_paper() {
    let Some(folder) = golden_data() else { return };
    let tokenizer = Tokenizer::open(format!("{GOLDEN}/model-tok-l3")).unwrap();
    let question = &golden_prompts(folder.path(), "boolq", 0).documents[0];
    let text = &golden_prompts(folder.path(), "c4", 0).documents[0];
    let old = Encoder::new(&tokenizer, Some(Compat::V0_4_0), None, 64, false).unwrap();
    let new = Encoder::new(&tokenizer, None, None, 64, false).unwrap();
    let (a, b) = (old.document(question, taken()).unwrap(), new.document(question, taken()).unwrap());
    assert_eq!(
        (a.requests[0].input[0], *a.requests[0].input == b.requests[0].input[1..]),
        (b.requests[0].input[1], true)
    );
    let windows = old.document(text, taken()).unwrap();
    assert_eq!((windows.requests[0].input[0], windows.lead), (tokenizer.eos().unwrap(), false));
    let paper = Encoder::new(&tokenizer, None, None, 64, true).unwrap();
    let windows = paper.document(text, taken()).unwrap();
    assert_eq!(
        (windows.requests[0].input[0], windows.requests[0].from, windows.lead),
        (tokenizer.bos().unwrap(), 0, false)
    );
    let asked = paper.document(question, taken()).unwrap();
    let ids = |text| *tokenizer.encode(text, Special::None).unwrap().last().unwrap();
    let mut expected = vec![ids("Yes"), ids(" Yes")];
    expected.dedup();
    assert_eq!(asked.requests[1].targets, ScoredTargets::AnyOf(expected));
    assert_eq!(asked.requests[0].input, b.requests[0].input);
}

#[test]
fn tokenizers_without_special_tokens() {
    let Some(folder) = golden_data() else { return };
    let bare = tempfile::tempdir().unwrap();
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{GOLDEN}/model-tok-l3/tokenizer.json")).unwrap()).unwrap();
    json["post_processor"] = serde_json::Value::Null;
    std::fs::write(bare.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(bare.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
    let encoder = Encoder::new(&tokenizer, None, None, 64, false).unwrap();
    encoder.document(&golden_prompts(folder.path(), "boolq", 0).documents[0], taken()).unwrap();
    let error = encoder.document(&golden_prompts(folder.path(), "c4", 0).documents[0], taken()).unwrap_err();
    assert!(error.to_string().contains("neither a beginning-of-sequence nor"), "{error}");
    assert_eq!(Encoder::new(&tokenizer, None, Some(true), 64, false).unwrap_err().exit_code(), 2);
}

#[test]
fn windows_as_the_reference_rolls_them() {
    let window = |reads, predicts| Window { reads, predicts };
    let windows = |tokens, longest| windows(tokens, longest).collect::<Vec<_>>();
    assert_eq!(windows(3, 4), [window(0..3, 0..3)]);
    assert_eq!(windows(10, 4), [window(0..4, 0..4), window(4..8, 4..8), window(6..10, 8..10)]);
    assert_eq!(windows(0, 4), []);
}

#[test]
fn answers_of_the_papers_scripts() {
    assert_eq!([paper_answer(" no"), paper_answer(" yes"), paper_answer(" A")], ["No", "Yes", "A"]);
}
