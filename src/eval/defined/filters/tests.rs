//! Filters against the harness's, and what is none.

use serde_json::json;

use super::super::yaml::parse;
use super::*;

fn key(text: &str) -> Key {
    let value = parse(text).unwrap();
    Key { name: "filter_list".to_owned(), file: std::path::Path::new("a.yaml").into(), line: 1, value }
}

fn made(steps: &str, repeats: usize) -> Result<Vec<Pipeline>> {
    pipelines(&key(&format!("- name: f\n  filter:\n{steps}")), repeats, false)
}

fn apply(steps: &str, said: &str) -> String {
    let document = json!({"choices": ["Guilty", "Guilty of Romance", "the cat"]});
    let all = made(&format!("{steps}    - function: take_first\n"), 1).unwrap();
    all[0].apply(document.as_object().unwrap(), vec![said.to_owned()]).unwrap().concat()
}

/// Expected values are those of the harness's own filters.
#[test]
fn responses_are_what_the_harness_makes_of_them() {
    let regex = "    - {function: regex, regex_pattern: '([A-D])\\.|(none)', group_select: -1, fallback: '?'}\n";
    for (said, expected) in [("A. or B.", "B"), ("none", "none"), ("no", "?"), ("", "?")] {
        assert_eq!(apply(regex, said), expected, "{said}");
    }
    let choice = "    - {function: multi_choice_regex, regex_pattern: '(\\([A-Z]\\))', ignore_case: true, \
                  ignore_punctuation: true}\n";
    for (said, expected) in [
        ("It is (B).", "(B)"),
        ("guilty of, romance!", "(B)"),
        ("Guilty", "(A)"),
        ("The cat sat: A", "(C)"),
        ("Answer: B", "(B)"),
        ("I do not know", "[invalid]"),
    ] {
        assert_eq!(apply(choice, said), expected, "{said}");
    }
    let words = "    - function: remove_whitespace\n    - function: uppercase\n    - {function: map, mapping_dict: {'YES': \
                 'y', 'NO': 'n'}, default_value: x}\n";
    assert_eq!([" yes\n", "no", "so"].map(|said| apply(words, said)), ["y", "n", "x"]);
    let vote =
        made("    - function: lowercase\n    - function: majority_vote\n    - function: take_first\n", 4).unwrap();
    let said = ["B", "a", "A", "b"].map(str::to_owned).to_vec();
    assert_eq!(vote[0].apply(&Fields::new(), said).unwrap(), ["b"]);
}

#[test]
fn what_is_no_filter_is_refused_with_its_line() {
    for (steps, part) in [
        ("    - function: take_last\n", "there is no filter take_last; did you mean take_first?"),
        ("    - function: custom\n", "filter custom is a function of Python"),
        ("    - {function: regex, regex: x}\n", "filter regex has no setting regex"),
        ("    - {function: regex, regex_pattern: '('}\n", "\"(\" is no regular expression"),
        ("    - function: take_first\n    - function: lowercase\n", "let take_first be the last"),
        ("    - function: lowercase\n", "leaves a list of responses"),
        ("    - {function: take_first_k, k: 3}\n", "from 1 to repeats, 2"),
        ("    - {function: map, mapping_dict: {a: b}}\n", "map without default_value"),
        ("    - {function: regex, group_select: x}\n", "expected a whole number"),
    ] {
        let error = made(steps, 2).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a.yaml line ") && text.contains(part) && error.exit_code() == 2, "{text}");
    }
    assert!(pipelines(&key("x"), 1, false).unwrap_err().to_string().contains("expected a list of filters"));
}
