//! Where text is: a local file or directory, a file of a hub data set, or a data set with a name of its own.

use std::path::Path;

use super::source::{SourceOptions, TextSource};
use crate::checkpoint::HubFile;
use crate::files::meant;
use crate::{Error, Result};

/// What text is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Measuring: analysis, loss.
    Measure,
    /// Training.
    Train,
}

/// A data set known by name: which of its files to measure on, and which to train on.
struct Known {
    name: &'static str,
    measure: &'static str,
    train: &'static str,
}

/// The known data sets; a new one is a row here.
const KNOWN: &[Known] = &[Known {
    name: "allenai/c4",
    measure: "datasets/allenai/c4/en/c4-validation.00000-of-00008.json.gz",
    train: "datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz",
}];

/// Brings a hub file, `datasets/org/name/path/in/repo[@revision]`, onto this machine: `Hub::dataset_file`.
pub type Fetch<'a> = &'a dyn Fn(&str) -> Result<HubFile>;

impl TextSource {
    /// Names on the hub, `datasets/org/name/path/in/repo[@revision]`, of all files that [`TextSource::find`] may take
    /// for `spec`, whatever it is for.
    ///
    /// # Errors
    /// [`Error::Request`] for what is no name on the hub.
    pub(crate) fn hub_files(spec: &str) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for purpose in [Purpose::Measure, Purpose::Train] {
            ids.push(hub_id(spec, purpose)?.ok_or_else(|| unknown(spec))?);
        }
        ids.dedup();
        Ok(ids)
    }

    /// The text called `spec`: a local file, or a directory (at any depth the files of the split that `purpose` wants,
    /// if their names or their folders' tell splits, and of these the format that most have);
    /// `hub:datasets/org/name/path[@revision]` or `hf://datasets/org/name[@revision]/path`, one file of a hub data set;
    /// or a known data set (`allenai/c4`), of which the file for `purpose` is taken. What exists locally is local.
    ///
    /// # Errors
    /// As [`TextSource::open`] and `fetch`; [`Error::Request`] for a name that is none of these.
    pub fn find(spec: &str, purpose: Purpose, options: &SourceOptions, fetch: Fetch) -> Result<Self> {
        let path = Path::new(spec);
        if path.exists() {
            return Self::open_for(path, purpose, options);
        }
        let id = hub_id(spec, purpose)?.ok_or_else(|| unknown(spec))?;
        let HubFile { path, revision } = fetch(&id)?;
        Ok(Self::of_files(spec.to_owned(), vec![path], options)?.at_revision(revision))
    }
}

fn unknown(spec: &str) -> Error {
    let known: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    let absent = format!("{spec}: no such file or directory");
    Error::request(match meant(Path::new(spec)) {
        meant if !meant.is_empty() => absent + &meant,
        _ => format!(
            "{absent}; a file on the hub is hub:datasets/org/name/path, a data set known by name is {}",
            known.join(", ")
        ),
    })
}

/// The hub's own name for `spec`, or `None` when it is no name on the hub.
fn hub_id(spec: &str, purpose: Purpose) -> Result<Option<String>> {
    if let Some(known) = KNOWN.iter().find(|known| known.name == spec) {
        let file = if purpose == Purpose::Measure { known.measure } else { known.train };
        return Ok(Some(file.to_owned()));
    }
    if let Some(id) = spec.strip_prefix("hub:") {
        return Ok(Some(id.to_owned()));
    }
    let Some(rest) = spec.strip_prefix("hf://") else { return Ok(None) };
    let fault = || Error::request(format!("{spec}: not of the form hf://datasets/org/name[@revision]/path"));
    let repo_end = rest.match_indices('/').nth(2).map(|(at, _)| at);
    let Some((repo, revision)) = rest.split_once('@').filter(|(repo, _)| repo.matches('/').count() == 2) else {
        return if repo_end.is_some() { Ok(Some(rest.to_owned())) } else { Err(fault()) };
    };
    // a revision ends at the next slash, but for the hub's two kinds of references
    let parts = if revision.starts_with("refs/convert/") || revision.starts_with("refs/pr/") { 3 } else { 1 };
    let (end, _) = revision.match_indices('/').nth(parts - 1).ok_or_else(fault)?;
    let (revision, path) = (revision[..end].replace("%2F", "/"), &revision[end + 1..]);
    Ok(Some(format!("{repo}/{path}@{revision}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_hub() {
        let id = |spec: &str| hub_id(spec, Purpose::Measure).unwrap();
        let plain = Some("datasets/org/name/dir/a.parquet".to_owned());
        assert_eq!(id("hub:datasets/org/name/dir/a.parquet"), plain);
        assert_eq!(id("hf://datasets/org/name/dir/a.parquet"), plain);
        let at = |revision: &str| Some(format!("datasets/org/name/dir/a.parquet@{revision}"));
        assert_eq!(id("hub:datasets/org/name/dir/a.parquet@v1"), at("v1"));
        assert_eq!(id("hf://datasets/org/name@v1/dir/a.parquet"), at("v1"));
        assert_eq!(id("hf://datasets/org/name@refs/convert/parquet/dir/a.parquet"), at("refs/convert/parquet"));
        assert_eq!(id("hf://datasets/org/name@refs%2Fpr%2F3/dir/a.parquet"), at("refs/pr/3"));
        assert!(id("allenai/c4").unwrap().contains("validation"));
        assert!(hub_id("allenai/c4", Purpose::Train).unwrap().unwrap().contains("train.00000"));
        assert_eq!((id("org/name"), id("a.jsonl")), (None, None));
        assert_eq!(TextSource::hub_files("allenai/c4").unwrap().len(), 2);
        assert_eq!(TextSource::hub_files("hub:datasets/org/name/a.json").unwrap(), ["datasets/org/name/a.json"]);
        assert!(TextSource::hub_files("org/name").is_err());
        for wrong in ["hf://datasets/org", "hf://datasets/org/name", "hf://datasets/org/name@v1", "hf://a@b/c/d"] {
            assert!(hub_id(wrong, Purpose::Train).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_exists_is_local_and_what_does_not_is_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\":\"x\"}").unwrap();
        let find = |spec: &str| {
            let fetch = |id: &str| {
                assert_eq!(id, "datasets/org/name/a.jsonl");
                Ok(HubFile { path: path.clone(), revision: "c0ffee".to_owned() })
            };
            TextSource::find(spec, Purpose::Measure, &SourceOptions::default(), &fetch)
        };
        let local = find(path.to_str().unwrap()).unwrap();
        assert_eq!((local.revision(), local.files()), (None, &[path.clone()][..]));
        let fetched = find("hub:datasets/org/name/a.jsonl").unwrap();
        assert_eq!((fetched.revision(), fetched.name()), (Some("c0ffee"), "hub:datasets/org/name/a.jsonl"));
        let unknown = find("org/name").unwrap_err();
        assert!(
            matches!(&unknown, Error::Request(m) if m.contains("org/name: no such file") && m.contains("allenai/c4")),
            "{unknown}"
        );
    }
}
