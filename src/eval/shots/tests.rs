//! White space decides what stands between texts; `tests/it/eval/recorded.rs` has whole prompts.

use super::*;

fn about(gen_prefix: &'static str) -> About {
    About { gen_prefix, target_delimiter: " ", shots_delimiter: "\n\n", ..About::CHOICE }
}

fn text(example: &Example, about: &About) -> String {
    example.messages(about).iter().map(Message::text).collect()
}

#[test]
fn delimiters_stand_where_no_space_is() {
    for (prefix, question, answer, expected) in [
        ("", "Q:", "a", "Q: a\n\n"),
        ("", "Q: ", "a", "Q:  a\n\n"),
        // an answer that the question ends in
        ("", "Q", "", "Q"),
        ("So", "Q:", "a", "Q: So a\n\n"),
        ("So\n", "Q:\n", "a", "Q:\nSo\na\n\n"),
        ("So", "Q:", "", "Q: So"),
    ] {
        assert_eq!(text(&Example::new(question, answer), &about(prefix)), expected);
    }
    let said = |instruction, description| system(instruction, description, &about("")).map(|message| message.content);
    assert_eq!(said("Be brief.", "Sums.\n\n").as_deref(), Some("Be brief.\n\nSums.\n\n"));
    assert_eq!(said("Be brief. ", "Sums.").as_deref(), Some("Be brief. Sums."));
    assert_eq!((said("", "Sums.").as_deref(), said("", "")), (Some("Sums."), None));
}

#[test]
fn a_plain_text_is_shared() {
    let (about, shared) = (about(""), Arc::<str>::from("shots\n\n"));
    let shots = Shots::text(&about, shared.clone());
    let prompt = shots.before("Q:").unwrap();
    assert!(Arc::ptr_eq(&prompt.shots, &shared) && prompt.text() == "shots\n\nQ:" && shots.delimiter() == " ");
}
