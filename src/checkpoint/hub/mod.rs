//! The hub: models and data files by name, through the cache that every Hugging Face tool shares.
//!
//! The hub and every host it sends on to are strangers: what they say becomes the name of a file only if it is plain,
//! and contents are no longer than announced and what their name says. `hf-hub` knows where the cache has what. Around
//! it: `repo` reads names, `url` addresses, `http` sends requests, `ask` asks what the hub has and why it refuses,
//! `contents` is a file that arrives, `cache` finds commits without the network, `download` brings a file, stops on
//! request and goes on where it broke, `fetch` decides which files are needed, of GGUF models with `gguf_files`,
//! `needed` which of them are missing, `inventory` tells what the cache holds. Nothing is asked of the network when
//! `HF_HUB_OFFLINE` is set, and no file is fetched that the cache has.

mod ask;
mod cache;
mod contents;
mod dataset;
mod download;
mod fetch;
mod gguf_files;
mod http;
mod inventory;
mod needed;
mod repo;
mod url;

pub use dataset::Dataset;
pub use fetch::HubFile;
pub use inventory::Cached;
pub use needed::Needed;

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::Cache;
use http::Client;

use crate::{Error, Result, files};

/// Where the hub is, who asks, and where files are kept; the environment variables are those of `huggingface_hub`.
pub struct Hub {
    client: Client,
    cache: Cache,
    offline: bool,
}

impl Hub {
    /// The hub as the environment says: `HF_ENDPOINT`, `HF_HOME` (or `XDG_CACHE_HOME`), `HF_HUB_CACHE`, `HF_TOKEN` (or
    /// the token file, `HF_TOKEN_PATH`), `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// Request: no home directory and no `HF_HOME`, or a token that is none.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// As [`Hub::from_env`], the variables looked up with `var`.
    ///
    /// # Errors
    /// As [`Hub::from_env`].
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |names: &[&str]| names.iter().find_map(|name| var(name).filter(|value| !value.is_empty()));
        let path = |names: &[&str]| var(names).map(|value| expand_home(Path::new(&value)));
        let home = path(&["HF_HOME"])
            .or_else(|| path(&["XDG_CACHE_HOME"]).map(|cache| cache.join("huggingface")))
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface")))
            .ok_or_else(|| Error::request("no home directory to cache hub files in; set HF_HOME"))?;
        let cache = path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).unwrap_or_else(|| home.join("hub"));
        // links in the cache are relative to absolute places
        let cache = Cache::new(std::path::absolute(&cache).map_err(|error| Error::io(&cache, &error))?);
        let token_file = path(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token"));
        let token = var(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]);
        let token = token.or_else(|| files::read_text(&token_file, files::NOTE).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::request("HF_TOKEN, or the token file, holds characters that no token has"));
        }
        let endpoint = var(&["HF_ENDPOINT"]).unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let offline = var(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]);
        let offline = offline.is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()));
        Ok(Self { client: Client::new(endpoint, token), cache, offline })
    }

    /// Whether the network must not be used.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Where the hub is.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// Whether it is asked in somebody's name.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.client.has_token()
    }

    /// The directory that holds `models--org--name` and its like.
    pub fn cache(&self) -> &Path {
        self.cache.path()
    }

    /// Bytes free on the cache's disk, where the system says so.
    #[must_use]
    pub fn disk_free(&self) -> Option<u64> {
        let there = self.cache().ancestors().find(|path| path.exists())?;
        fs4::available_space(there).ok()
    }
}

/// The token stays out of sight.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint())
            .field("has_token", &self.has_token())
            .field("cache", self.cache.path())
            .field("offline", &self.offline)
            .finish()
    }
}

/// `~` in front is the home directory, as in the shell that did not see it.
pub(super) fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}
