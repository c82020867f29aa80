//! Which choice a response names.

use super::{Extract, Ignore};
use crate::eval::python::{Pattern, strip};

/// `multi_choice_regex`: the expression, or else a choice's own text, or else a letter behind a colon.
pub(super) fn chosen(extract: &Extract, ignore: &Ignore, choices: &[String], response: &str) -> Result<String, String> {
    let letters: Vec<char> = ('A'..='Z').take(choices.len()).collect();
    if letters.len() < choices.len() {
        return Err(format!("{} choices, more than there are letters", choices.len()));
    }
    let found = |pattern: &Pattern, text: &str| {
        Ok::<_, String>(extract.select(pattern.find_all(text)?).map(|found| strip(found.first()).to_owned()))
    };
    if let Some(found) = found(&extract.pattern, response)?.filter(|found| !found.is_empty()) {
        return Ok(found);
    }
    let bare: Vec<String> = choices.iter().map(|choice| ignore.apply(strip(choice))).collect::<Result<_, _>>()?;
    let mut branches: Vec<String> = bare.iter().map(|text| fancy_regex::escape(text).into_owned()).collect();
    branches.sort_by_key(|branch| std::cmp::Reverse(branch.chars().count()));
    let texts = Pattern::new(&branches.join("|"))?;
    if let Some(text) = found(&texts, &ignore.apply(response)?)?.filter(|found| !found.is_empty()) {
        // of choices with one text the last has it
        let letter = bare.iter().rposition(|known| *known == text).map(|place| format!("({})", letters[place]));
        return Ok(letter.unwrap_or(text));
    }
    let names: Vec<String> = letters.iter().map(char::to_string).collect();
    let behind = Pattern::new(&format!(r":[\s]*({})", names.join("|")))?;
    let letter = found(&behind, response)?.filter(|found| !found.is_empty());
    Ok(letter.map_or_else(|| extract.fallback.clone(), |letter| format!("({letter})")))
}
