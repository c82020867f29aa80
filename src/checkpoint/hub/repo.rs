//! Names on the hub: `org/name`, `org/name@revision`, `datasets/org/name/path/in/repo@revision`; of GGUF models also
//! `org/name:TYPE` and `org/name/path/in/repo.gguf`, with a revision behind them or without.

use std::fmt;
use std::path::{Component, Path};

use hf_hub::RepoType;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::gguf_files::Chosen;
use crate::{Error, Result};

/// What stays itself in one part of a URL's path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What stays itself in the path of a URL.
const PATH: &AsciiSet = &PART.remove(b'/');

/// A repository at a revision.
#[derive(Clone, Debug)]
pub(super) struct Repo {
    kind: RepoType,
    /// `org/name`; some old ones have no organisation.
    name: String,
    /// Branch, tag or commit.
    pub(super) revision: String,
}

impl Repo {
    /// The model `org/name[@revision]`, and which of those in the repository it is: `org/name:TYPE[@revision]`,
    /// `org/name/FILE.gguf[@revision]`.
    pub(super) fn model(id: &str) -> Result<(Self, Chosen)> {
        let (name, revision) = split_revision(id);
        let (name, chosen) = match (name.rsplit_once(':'), name.match_indices('/').nth(1)) {
            (Some((name, kind)), _) => (name, Chosen::Type(kind.to_owned())),
            (None, Some((end, _))) if name.to_ascii_lowercase().ends_with(".gguf") => {
                (&name[..end], Chosen::File(name[end + 1..].to_owned()))
            }
            _ => (name, Chosen::Only),
        };
        let is_sound = match &chosen {
            Chosen::Only => true,
            // one part of a name
            Chosen::Type(kind) => is_name(kind) && !kind.contains('/'),
            Chosen::File(file) => is_relative(file),
        };
        if !is_sound || name.split('/').count() > 2 || !is_name(name) || !is_relative(revision) {
            return Err(Error::request(format!(
                "{id}: no hub id (org/name, org/name@revision, of GGUF files org/name:Q4_K_M or org/name/FILE.gguf)"
            )));
        }
        Ok((Self { kind: RepoType::Model, name: name.to_owned(), revision: revision.to_owned() }, chosen))
    }

    /// The data set `org/name[@revision]`.
    pub(super) fn dataset(id: &str) -> Result<Self> {
        let (name, revision) = split_revision(id);
        if name.split('/').count() > 2 || !is_name(name) || !is_relative(revision) {
            return Err(Error::request(format!("{id}: no data set's name (org/name or org/name@revision)")));
        }
        Ok(Self { kind: RepoType::Dataset, name: name.to_owned(), revision: revision.to_owned() })
    }

    /// The repository and the path inside it of `datasets/org/name/path/in/repo[@revision]`.
    pub(super) fn dataset_file(id: &str) -> Result<(Self, String)> {
        let fault = || Error::request(format!("{id}: not of the form datasets/org/name/path/in/repo[@revision]"));
        let (path, revision) = split_revision(id);
        let mut parts = path.splitn(4, '/');
        let (Some("datasets"), Some(org), Some(name), Some(file)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(fault());
        };
        let name = format!("{org}/{name}");
        if !is_name(&name) || !is_relative(file) || !is_relative(revision) {
            return Err(fault());
        }
        Ok((Self { kind: RepoType::Dataset, name, revision: revision.to_owned() }, file.to_owned()))
    }

    /// The repository at another revision, as `hf-hub` knows it.
    pub(super) fn at(&self, revision: &str) -> hf_hub::Repo {
        hf_hub::Repo::with_revision(self.name.clone(), self.kind, revision.to_owned())
    }

    /// Path at the hub of what it says of the repository.
    pub(super) fn api_path(&self) -> String {
        let kind = match self.kind {
            RepoType::Model => "models",
            RepoType::Dataset => "datasets",
            RepoType::Space => "spaces",
        };
        format!("api/{kind}/{}/revision/{}", self.name, utf8_percent_encode(&self.revision, PART))
    }

    /// Path at the hub of `file` at `revision`.
    pub(super) fn file_path(&self, revision: &str, file: &str) -> String {
        let (revision, file) = (utf8_percent_encode(revision, PART), utf8_percent_encode(file, PATH));
        format!("{}/resolve/{revision}/{file}", self.page())
    }

    /// Path of its page on the hub.
    pub(super) fn page(&self) -> String {
        self.at(MAIN).url()
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.page()),
            revision => write!(f, "{}@{revision}", self.page()),
        }
    }
}

/// The revision of those who name none.
const MAIN: &str = "main";

fn split_revision(id: &str) -> (&str, &str) {
    id.rsplit_once('@').unwrap_or((id, MAIN))
}

/// What the hub allows in names; nothing that means something to a file system or a URL.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.len() <= 96 && part.chars().all(allowed) && !part.starts_with(['-', '.'])
    };
    name.split('/').all(part) && !name.contains("--") && !name.contains("..")
}

/// Whether a path from outside stays inside the directory it is joined to.
pub(super) fn is_relative(path: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains(['\\', '\0']) && Path::new(path).components().all(plain) && !path.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let repo = Repo::model("org/name").unwrap().0;
        assert_eq!(
            (repo.at("main").folder_name().as_str(), repo.to_string().as_str()),
            ("models--org--name", "org/name")
        );
        let repo = Repo::model("meta-llama/Llama-3.1-8B@refs/pr/1").unwrap().0;
        assert_eq!(repo.api_path(), "api/models/meta-llama/Llama-3.1-8B/revision/refs%2Fpr%2F1");
        assert_eq!(repo.file_path("v1", "a b/c#"), "meta-llama/Llama-3.1-8B/resolve/v1/a%20b/c%23");
        assert_eq!(Repo::model("gpt2@v1").unwrap().0.revision, "v1");
        for (id, chosen) in [
            ("org/name", Chosen::Only),
            ("org/name:Q4_K_M", Chosen::Type("Q4_K_M".to_owned())),
            ("org/name:Q4_K_M@v1", Chosen::Type("Q4_K_M".to_owned())),
            ("org/name/x.gguf@v1", Chosen::File("x.gguf".to_owned())),
            ("org/name/Q4/x y.GGUF", Chosen::File("Q4/x y.GGUF".to_owned())),
        ] {
            let (repo, found) = Repo::model(id).unwrap();
            assert_eq!((repo.page().as_str(), found), ("org/name", chosen), "{id}");
        }
        for wrong in [
            "",
            "/",
            "a/b/c",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a b/c",
            "a/b@",
            "a/b@../../x",
            "a/b@/x",
            "a--b/c",
            "-a/b",
            "a/b?x",
            "a/b:",
            "a/b:x/y",
            "a/b:..",
            "a:b/c",
            "a/b/../x.gguf",
            "a/b//etc/x.gguf",
            "a/b@x\0y",
            "https://hub/a/b",
        ] {
            assert!(Repo::model(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_data_files() {
        let (repo, file) = Repo::dataset_file("datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz").unwrap();
        assert_eq!(
            (repo.at("main").folder_name().as_str(), file.as_str()),
            ("datasets--allenai--c4", "en/c4-train.00000-of-01024.json.gz")
        );
        assert_eq!(repo.page(), "datasets/allenai/c4");
        let (repo, file) = Repo::dataset_file("datasets/a/b/x.parquet@refs/convert/parquet").unwrap();
        assert_eq!((repo.revision.as_str(), file.as_str()), ("refs/convert/parquet", "x.parquet"));
        for wrong in ["datasets/a/b", "datasets/a/b/", "a/b/c/d", "datasets/a/b/../../c", "datasets/a/b//etc/x"] {
            assert!(Repo::dataset_file(wrong).is_err(), "{wrong}");
        }
    }
}
