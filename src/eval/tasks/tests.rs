//! What holds for every task of the table.

use serde_json::{Value, json};

use super::*;
use crate::eval::metrics::{NO_FILTER, Takes, figure};
use crate::eval::shots::Message;

fn all() -> impl Iterator<Item = &'static dyn Task> {
    TASKS.iter().copied().chain([TEXT])
}

/// A row of the task's data.
fn row(task: &str) -> Fields {
    let row = match task {
        "mmlu" => json!({"question": "How many?", "subject": "anatomy", "choices": ["1", "2", "3", "4"], "answer": 2}),
        "boolq" => json!({"question": "is it so", "passage": "It is -- It is so.", "label": 1, "idx": 0}),
        "hellaswag" => json!({
            "activity_label": "Roof", "ctx_a": "A man sits.", "ctx_b": "he", "endings": ["a b", "c", "d", "e"],
            "label": "2",
        }),
        "arc_easy" | "arc_challenge" => {
            json!({"question": "Why?", "choices": {"text": ["so", "thus"], "label": ["1", "2"]}, "answerKey": "2"})
        }
        "piqa" => json!({"goal": "To rise", "sol1": "stand up", "sol2": "sit", "label": 0}),
        "winogrande" => json!({"sentence": "A _ is b.", "option1": "cat", "option2": "dog", "answer": "1"}),
        "openbookqa" => json!({
            "question_stem": "The sun is", "choices": {"text": ["cold", "hot"], "label": ["A", "B"]}, "answerKey": "B",
        }),
        "gsm8k" => json!({"question": "How many?", "answer": "Half of 2,400 is <<2400/2=1200>>1,200.\n#### 1,200"}),
        "gsm8k_cot" | "gsm8k_cot_zeroshot" | "gsm8k_cot_llama" => return row("gsm8k"),
        "commonsense_qa" => json!({
            "question": "Where is a keel?", "answerKey": "B",
            "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["hat", "ship", "tree", "cup", "hill"]},
        }),
        "truthfulqa_mc1" | "truthfulqa_mc2" => json!({
            "question": "Is it so?", "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["Yes.", "It is.", "No."], "labels": [1, 1, 0]},
        }),
        "copa" => json!({
            "premise": "It rained.", "choice1": "The road was wet.", "choice2": "The sun rose.", "question": "effect",
            "idx": 0, "label": 0,
        }),
        "rte" => json!({"sentence1": "It rained all day.", "sentence2": "It rained.", "label": 0, "idx": 0}),
        "cb" => json!({"premise": "It rained. It did.", "hypothesis": "it rained", "label": 2, "idx": 0}),
        "race" => json!({
            "article": "It rained.",
            "problems": "[{'question': 'It  _  .', 'options': ['a', 'b', 'c', 'd'], 'answer': 'B'}, \
                {'question': \"What's so?\", 'options': ['e', 'f', 'g', 'h'], 'answer': 'C'}]",
        }),
        "lambada_openai" => json!({"text": "It rained and the road was wet"}),
        "ifeval" => json!({
            "key": 1, "prompt": "Say two things, no comma.", "instruction_id_list": ["punctuation:no_comma",
            "length_constraints:number_words", "language:response_language"],
            "kwargs": [{}, {"num_words": 2, "relation": "at least"}, {"language": "de"}],
        }),
        "wikitext" => json!({"page": " = A = \n \n one @-@ two \n"}),
        "c4" => json!({"text": "one two", "timestamp": "2019-04-25T12:57:54Z", "url": "u"}),
        "text" => json!({"text": "one two"}),
        other => panic!("a row of {other} for these tests"),
    };
    let Value::Object(row) = row else { panic!("an object") };
    row
}

fn asked(task: &dyn Task, shots: &str) -> (Fields, Vec<Request>) {
    let document = task.prepare(row(task.about().name)).unwrap();
    let requests = task.requests(&document, &Shots::text(task.about(), shots)).unwrap();
    (document, requests)
}

#[test]
fn rows_are_sound() {
    for about in all().map(Task::about) {
        let definition: Value = serde_json::from_str(about.definition).unwrap();
        assert!(!definition["doc_to_target"].is_null(), "{}", about.name);
        assert!(!about.metrics.is_empty() && !about.filters.is_empty() && !about.split.is_empty());
        let same = TASKS.iter().filter(|other| other.about().name == about.name).count();
        assert_eq!(same, usize::from(about.name != "text"));
    }
}

#[test]
fn a_document_asks_the_same_again() {
    for task in all() {
        let name = task.about().name;
        let (document, requests) = asked(task, "shots\n\n");
        assert_eq!(asked(task, "shots\n\n"), (document.clone(), requests.clone()), "{name}");
        assert!(!requests.is_empty() && !task.target(&document).unwrap().is_empty(), "{name}");
        for request in &requests {
            match request {
                Request::LogLikelihood { context, continuation } => {
                    assert!(context.text().starts_with("shots\n\n") && continuation.starts_with(' '), "{name}");
                }
                Request::GenerateUntil { context, until, .. } => {
                    assert!(
                        context.text().starts_with("shots\n\n") && until.is_empty() == (name == "ifeval"),
                        "{name}"
                    );
                }
                Request::LogLikelihoodRolling { text } => assert!(!text.contains("shots"), "{name}"),
            }
        }
        // a document is no example of another form than it is asked in
        if task.about().has_examples() {
            let example = task.example(&document).unwrap();
            let text: String = example.messages(task.about()).iter().map(Message::text).collect();
            assert!(text.ends_with(task.about().shots_delimiter) && !example.answer.is_empty(), "{name}: {text:?}");
        }
    }
}

fn judge(task: &dyn Task, document: &Fields, answers: &[Answer]) -> Vec<Measure> {
    let filters = task.about().filters.iter();
    let judged = filters.flat_map(|filter| {
        let answers: Vec<Answer> = answers.iter().map(|answer| filter.apply(answer)).collect();
        task.judge(document, &answers).unwrap()
    });
    judged.collect()
}

#[test]
fn the_right_answer_is_one_and_others_are_nothing() {
    for task in all() {
        let (name, about) = (task.about().name, task.about());
        let (document, requests) = asked(task, "");
        let count = about.measured().count();
        match about.output {
            // what is likely counts, not what is likeliest
            OutputType::MultipleChoice if name == "truthfulqa_mc2" => {}
            OutputType::MultipleChoice => {
                let answers = |best: usize| -> Vec<Answer> {
                    let likely = |index| if index == best { -0.1 } else { -90.0 };
                    let answer = |index| Answer::LogLikelihood { log_likelihood: likely(index), greedy: index == best };
                    (0..requests.len()).map(answer).collect()
                };
                let judged = |best: usize| judge(task, &document, &answers(best));
                let right: Vec<usize> = (0..requests.len()).filter(|best| judged(*best)[0].sum == 1.0).collect();
                assert_eq!(right.len(), 1, "{name}");
                for best in 0..requests.len() {
                    let measures = judged(best);
                    assert_eq!(measures.len(), count, "{name}");
                    let expected =
                        Measure { sum: f64::from(u8::from(right[0] == best)), weight: 1.0, chosen: Some(best) };
                    let of_choices = measures.iter().zip(about.metrics);
                    let mut of_choices = of_choices.filter(|(_, metric)| matches!(metric.takes, Takes::Choice(_)));
                    assert!(of_choices.all(|(measure, _)| *measure == expected), "{name}: {measures:?}");
                }
            }
            // several metrics, each of instructions of its own
            OutputType::Generate if name == "ifeval" => {
                let said = judge(task, &document, &[Answer::text("One, two".to_owned())]);
                let expected = [(0.0, 0.0), (1.0, 2.0), (0.0, 0.0), (1.0, 2.0), (1.0, 3.0)];
                assert_eq!(said.iter().map(Measure::parts).collect::<Vec<_>>(), expected);
            }
            OutputType::Generate => {
                let judged = |said: &str| judge(task, &document, &[Answer::text(said.to_owned())]);
                let right = judged(&match name {
                    "gsm8k_cot" | "gsm8k_cot_zeroshot" => "So the answer is 7. The answer is 1,200.".to_owned(),
                    "gsm8k_cot_llama" => "The final answer is 7? The final answer is $1,200".to_owned(),
                    _ => task.target(&document).unwrap(),
                });
                assert_eq!(right, vec![Measure::right(true); count], "{name}");
                assert_eq!(judged("I do not know."), vec![Measure::right(false); count], "{name}");
            }
            OutputType::LogLikelihood => {
                let judged = |greedy| judge(task, &document, &[Answer::LogLikelihood { log_likelihood: -2.0, greedy }]);
                let sums = |greedy| judged(greedy).iter().map(|measure| measure.sum).collect::<Vec<_>>();
                assert_eq!((sums(true), sums(false)), (vec![-2.0, 1.0], vec![-2.0, 0.0]), "{name}");
            }
            OutputType::Rolling => {
                let figures = |nats: f64| -> Vec<f64> {
                    let answer = Answer::Rolling { log_likelihood: -nats, own: -nats, tokens: 4 };
                    let measures = judge(task, &document, &[answer]);
                    let measured = about.measured().zip(measures);
                    measured
                        .map(|((_, metric), measure)| figure(metric, NO_FILTER, &[measure.parts()], 8).value)
                        .collect()
                };
                let best: Vec<f64> = about
                    .metrics
                    .iter()
                    .map(|metric| f64::from(u8::from(metric.name.ends_with("perplexity"))))
                    .collect();
                assert_eq!(figures(0.0), best, "{name}");
                assert!(figures(5.0).iter().zip(&best).all(|(worse, best)| worse > best), "{name}");
            }
        }
    }
}

#[test]
fn a_row_without_its_fields_is_named() {
    for task in all() {
        for field in row(task.about().name).keys() {
            let mut row = row(task.about().name);
            row.remove(field);
            let asked = task.prepare(row).and_then(|document| task.requests(&document, &Shots::text(task.about(), "")));
            if let Err(error) = asked {
                assert!(error.to_string().contains("field"), "{}: {error}", task.about().name);
            }
        }
    }
}
