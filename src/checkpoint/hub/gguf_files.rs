//! The GGUF models of a repository, which often has one of each type: `org/name:Q4_K_M` names one by its type, as
//! llama.cpp, Ollama and vLLM have it, `org/name/FILE.gguf` by its file.

use std::path::Path;

use super::repo::is_relative;
use crate::checkpoint::gguf::split;
use crate::{Error, Result};

/// How many models are named in a message.
const NAMED: usize = 6;

/// Which model of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The only one.
    Only,
    /// The one of this type, in letters of any case: what the names of its files end with.
    Type(String),
    /// The one in this file, or the file that it begins with.
    File(String),
}

impl Chosen {
    /// What is missing where there is none such.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Only => "a GGUF file".to_owned(),
            Self::Type(kind) => format!("a GGUF file in {kind}"),
            Self::File(file) => file.clone(),
        }
    }

    fn is(&self, first: &str) -> bool {
        match self {
            Self::Only => true,
            Self::File(file) => file == first,
            Self::Type(kind) => {
                let (stem, kind) = (stem(first).to_ascii_lowercase(), kind.to_ascii_lowercase());
                let before = stem.strip_suffix(&kind);
                before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
            }
        }
    }
}

/// Name of a model's first file without folder, number of a part and ending.
fn stem(first: &str) -> String {
    let path = Path::new(first);
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    split(path).map_or_else(stem, |(name, ..)| name)
}

/// Whether a file is called as GGUF files are, and is not one of what sees pictures or of what weights are rounded by.
fn is_model(name: &str) -> bool {
    let path = Path::new(name);
    let file = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let ending = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    ending && is_relative(name) && !file.contains("mmproj") && !file.contains("imatrix")
}

/// The models among files called `names` that may be `chosen`, each by all its files, the first in front.
pub(super) fn matching(names: &[String], chosen: &Chosen) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for name in names.iter().filter(|name| is_model(name) && chosen.is(name)) {
        match split(Path::new(name)) {
            None => found.push(vec![name.clone()]),
            Some((stem, 1, count)) => {
                let folder = name.rfind('/').map_or("", |end| &name[..=end]);
                let part = |number: u64| format!("{folder}{stem}-{number:05}-of-{count:05}.gguf");
                found.push((1..=count).map(part).collect());
            }
            Some(_) => {}
        }
    }
    found
}

/// The files of the one that is `chosen` of the repository `place`.
///
/// # Errors
/// Request: none, or several; names those that there are.
pub(super) fn choose(place: &str, names: &[String], chosen: &Chosen) -> Result<Vec<String>> {
    let mut found = matching(names, chosen);
    if let (Some(one), true) = (found.pop(), found.is_empty()) {
        return Ok(one);
    }
    let all = matching(names, &Chosen::Only);
    let firsts: Vec<&str> = all.iter().filter_map(|files| files.first()).map(String::as_str).take(NAMED).collect();
    let more = if all.len() > NAMED { format!(" and {} more", all.len() - NAMED) } else { String::new() };
    let listed = format!("{}{more}", firsts.join(", "));
    Err(Error::request(match (all.is_empty(), chosen) {
        (true, _) => format!("{place}: holds no GGUF model"),
        (_, Chosen::Only) => {
            format!("{place}: holds {} GGUF models, {listed}; name one, as {place}:Q4_K_M or by its file", all.len())
        }
        (_, Chosen::Type(kind)) if !matching(names, chosen).is_empty() => {
            format!("{place}: several files are in {kind}; name one by its file: {listed}")
        }
        (_, Chosen::Type(kind)) => format!("{place}: holds no GGUF file in {kind}; there are {listed}"),
        (_, Chosen::File(file)) => format!("{place}: holds no {file}; there are {listed}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn types_are_ends_of_names() {
        let all = names(&[
            "README.md",
            "Llama-3-Q4_K_M.gguf",
            "Llama-3-Q4_K_S.gguf",
            "Llama-3-IQ4_XS.gguf",
            "Llama-3-q8_0.gguf",
            "Llama-3.F16.gguf",
            "BF16/Llama-3-BF16-00001-of-00003.gguf",
            "BF16/Llama-3-BF16-00002-of-00003.gguf",
            "BF16/Llama-3-BF16-00003-of-00003.gguf",
            "mmproj-Llama-3-Q8_0.gguf",
        ]);
        let of = |kind: &str| choose("org/name", &all, &Chosen::Type(kind.to_owned()));
        for (kind, file) in [
            ("Q4_K_M", "Llama-3-Q4_K_M.gguf"),
            ("q4_k_s", "Llama-3-Q4_K_S.gguf"),
            ("Q8_0", "Llama-3-q8_0.gguf"),
            ("F16", "Llama-3.F16.gguf"),
        ] {
            assert_eq!(of(kind).unwrap(), [file], "{kind}");
        }
        let parts = of("bf16").unwrap();
        assert_eq!(parts, all[6..9]);
        assert_eq!(choose("org/name", &all, &Chosen::File(all[6].clone())).unwrap(), parts);
        for (chosen, said) in [
            (
                Chosen::Type("Q5_K_M".to_owned()),
                "org/name: holds no GGUF file in Q5_K_M; there are Llama-3-Q4_K_M.gguf",
            ),
            (Chosen::File("x.gguf".to_owned()), "holds no x.gguf; there are"),
            (Chosen::File(all[7].clone()), "holds no BF16/Llama-3-BF16-00002-of-00003.gguf"),
            (Chosen::Only, "org/name: holds 6 GGUF models, "),
        ] {
            let error = choose("org/name", &all, &chosen).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(choose("a/b", &all[..2], &Chosen::Only).unwrap(), ["Llama-3-Q4_K_M.gguf"]);
        assert!(choose("a/b", &all[..1], &Chosen::Only).unwrap_err().to_string().contains("no GGUF model"));
        let twice = names(&["a-Q4_0.gguf", "b/a-Q4_0.gguf"]);
        let error = choose("a/b", &twice, &Chosen::Type("Q4_0".to_owned())).unwrap_err().to_string();
        assert!(error.contains("several files"), "{error}");
    }
}
