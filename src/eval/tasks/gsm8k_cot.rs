//! GSM8K with chains of thought (arXiv 2201.11903), and as Llama 3's authors ask it.

use std::sync::LazyLock;

use regex::Regex;

use super::generation::{Generation, INVALID};
use super::gsm8k::{TASK, flexible, score};
use super::{About, Filter, Sampler};
use crate::Result;
use crate::eval::fields::{Fields, text};
use crate::eval::python::strip;

pub(super) const COT: Generation = Generation {
    about: About {
        name: "gsm8k_cot",
        title: "GSM8K, chain of thought",
        sampler: Sampler::First,
        shots: 8,
        samples: COT_SAMPLES,
        filters: &[
            Filter { name: "strict-match", extract: strict, ..Filter::FIRST },
            Filter { name: "flexible-extract", extract: flexible, ..Filter::FIRST },
        ],
        definition: COT_DEFINITION,
        ..TASK.about
    },
    context: |row| Ok(format!("Q: {}\nA:", text(row, "question")?)),
    answer,
    until: &["Q:", "</s>", "<|im_end|>"],
    max_gen_toks: None,
    score,
};

pub(super) const ZERO_SHOT: Generation = Generation {
    about: About {
        name: "gsm8k_cot_zeroshot",
        title: "GSM8K, chain of thought without examples",
        sampler: Sampler::Drawn,
        shots: 0,
        is_zero_shot: true,
        samples: "",
        definition: ZERO_SHOT_DEFINITION,
        ..COT.about
    },
    context: |row| Ok(format!("Q: {}\nA: Let's think step by step.", text(row, "question")?)),
    answer: TASK.answer,
    ..COT
};

pub(super) const LLAMA: Generation = Generation {
    about: About {
        name: "gsm8k_cot_llama",
        title: "GSM8K as Llama 3 is asked",
        target_delimiter: "",
        samples: LLAMA_SAMPLES,
        filters: &[
            Filter { name: "strict-match", extract: final_answer, ..Filter::FIRST },
            Filter { name: "flexible-extract", extract: flexible, ..Filter::FIRST },
        ],
        version: 4.0,
        definition: LLAMA_DEFINITION,
        ..COT.about
    },
    context: |row| {
        let question = text(row, "question")?;
        Ok(format!(
            "Given the following problem, reason and give a final answer to the problem.\nProblem: {question}\nYour \
             response should end with \"The final answer is [answer]\" where [answer] is the response to the \
             problem.\n"
        ))
    },
    until: &["<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "Q:", "</s>", "<|im_end|>"],
    ..COT
};

/// What follows the last sign of the answer; the task's own examples have it by itself.
fn answer(row: &Fields) -> Result<String> {
    if !row.contains_key("answer") {
        return text(row, "target").map(str::to_owned);
    }
    let answer = text(row, "answer")?;
    Ok(strip(answer.rsplit("####").next().unwrap_or(answer)).to_owned())
}

static STRICT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"The answer is (-?[0-9.,]+).").ok());
static FINAL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"The final answer is (-?[$0-9.,]{2,}|-?[0-9]+)").ok());

/// The first number that is said to be the answer, and that something follows.
fn strict(said: &str) -> String {
    let found = STRICT.as_ref().and_then(|strict| Some(strict.captures(said)?.get(1)?.as_str()));
    found.map_or(INVALID, strip).to_owned()
}

/// The last number that is said to be the final answer.
fn final_answer(said: &str) -> String {
    let found = FINAL.as_ref().and_then(|last| Some(last.captures_iter(said).last()?.get(1)?.as_str()));
    found.map_or(INVALID, strip).to_owned()
}

const COT_DEFINITION: &str = r#"{"doc_to_text": "Q: {{question}}\nA:", "doc_to_target": "{{answer.split('####')[-1].strip() if answer is defined else target}}", "generation_kwargs": {"do_sample": false, "until": ["Q:", "</s>", "<|im_end|>"]}, "filter_list": [{"filter": [{"function": "regex", "regex_pattern": "The answer is (\\-?[0-9\\.\\,]+)."}, {"function": "take_first"}], "name": "strict-match"}, {"filter": [{"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {"function": "take_first"}], "name": "flexible-extract"}]}"#;

const ZERO_SHOT_DEFINITION: &str = r#"{"doc_to_text": "Q: {{question}}\nA: Let's think step by step.", "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["Q:", "</s>", "<|im_end|>"], "do_sample": false}, "filter_list": [{"name": "strict-match", "filter": [{"function": "regex", "regex_pattern": "The answer is (\\-?[0-9\\.\\,]+)."}, {"function": "take_first"}]}, {"name": "flexible-extract", "filter": [{"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {"function": "take_first"}]}]}"#;

const LLAMA_DEFINITION: &str = r#"{"doc_to_text": "Given the following problem, reason and give a final answer to the problem.\nProblem: {{question}}\nYour response should end with \"The final answer is [answer]\" where [answer] is the response to the problem.\n", "doc_to_target": "{{answer.split('####')[-1].strip() if answer is defined else target}}", "generation_kwargs": {"do_sample": false, "until": ["<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "Q:", "</s>", "<|im_end|>"]}, "filter_list": [{"filter": [{"function": "regex", "group_select": -1, "regex_pattern": "The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))"}, {"function": "take_first"}], "name": "strict-match"}, {"filter": [{"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {"function": "take_first"}], "name": "flexible-extract"}]}"#;

/// The examples of arXiv 2201.11903, table 20.
const COT_SAMPLES: &str = r#"[
{"question": "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there will be 21 trees. How many trees did the grove workers plant today?", "target": "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been 21 - 15 = 6. The answer is 6."},
{"question": "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?", "target": "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5."},
{"question": "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?", "target": "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they had 74 - 35 = 39. The answer is 39."},
{"question": "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason give to Denny?", "target": "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8. The answer is 8."},
{"question": "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?", "target": "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9. The answer is 9."},
{"question": "There were nine computers in the server room. Five more computers were installed each day, from monday to thursday. How many computers are now in the server room?", "target": "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers were added. 9 + 20 is 29. The answer is 29."},
{"question": "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls did he have at the end of wednesday?", "target": "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he had 35 - 2 = 33 golf balls. The answer is 33."},
{"question": "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?", "target": "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. 23 - 15 is 8. The answer is 8."}
]"#;

const LLAMA_SAMPLES: &str = r#"[
{"question": "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there will be 21 trees. How many trees did the grove workers plant today?", "target": "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been 21 - 15 = 6. The final answer is 6"},
{"question": "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?", "target": "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The final answer is 5"},
{"question": "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?", "target": "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they had 74 - 35 = 39. The final answer is 39"},
{"question": "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason give to Denny?", "target": "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8. The final answer is 8"},
{"question": "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?", "target": "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9. The final answer is 9"},
{"question": "There were nine computers in the server room. Five more computers were installed each day, from monday to thursday. How many computers are now in the server room?", "target": "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers were added. 9 + 20 is 29. The final answer is 29"},
{"question": "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls did he have at the end of wednesday?", "target": "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he had 35 - 2 = 33 golf balls. The final answer is 33"},
{"question": "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?", "target": "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. 23 - 15 is 8. The final answer is 8"}
]"#;
