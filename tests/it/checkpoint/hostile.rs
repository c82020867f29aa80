//! A hub that lies: no file outside the cache is touched, the token stays with the hub, nothing is longer than
//! announced, and every answer ends the command or is answered itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use prune::checkpoint::{Checkpoint, Hub};
use prune::progress::Silent;
use prune::{Error, Result};
use tempfile::{TempDir, tempdir};

use crate::checkpoint::liar::{Asked, COMMIT, Liar, Reply, git_blob};
use crate::checkpoint::server::{Files, files_of};
use crate::fixture::Llama;

const TOKEN: &str = "hf_secret";

/// A home with files of the user's, beside and above the cache.
struct Scene {
    home: TempDir,
    model: TempDir,
    strangers: Vec<Files>,
}

impl Scene {
    fn new() -> Self {
        let (home, model) = (tempdir().unwrap(), tempdir().unwrap());
        Llama::default().write(model.path());
        fs::create_dir_all(home.path().join("project")).unwrap();
        for file in ["victim.txt", "victim.lock", "victim.part", "project/config.json", "project/tokenizer.json"] {
            fs::write(home.path().join(file), "precious").unwrap();
        }
        let mut scene = Self { home, model, strangers: Vec::new() };
        scene.strangers = scene.outside();
        scene
    }

    /// What lies outside the cache.
    fn outside(&self) -> Vec<Files> {
        let mut top = fs::read_dir(self.home.path()).unwrap().flatten().map(|file| file.path()).collect::<Vec<_>>();
        top.retain(|path| path.is_file());
        let top = top.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
        vec![top, files_of(&self.home.path().join("project"))]
    }

    fn hub(&self, liar: &Liar) -> Hub {
        let (home, cache) = (self.home.path(), self.home.path().join("cache/hub"));
        let vars = BTreeMap::from([
            ("HF_HOME", home.display().to_string()),
            ("HF_HUB_CACHE", cache.display().to_string()),
            ("HF_ENDPOINT", liar.endpoint.clone()),
            ("HF_TOKEN", TOKEN.to_owned()),
        ]);
        Hub::from_vars(|name| vars.get(name).cloned()).unwrap()
    }

    /// Fetches the model from a hub that answers as `lie` changes the honest answers.
    fn fetch(&self, lie: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) -> (Result<Checkpoint>, Liar) {
        let liar = Liar::start(files_of(self.model.path()), lie);
        let opened = Checkpoint::open("org/name", &self.hub(&liar), &Silent);
        self.unharmed();
        for (host, asked) in liar.log() {
            let told = asked.authorization.is_some_and(|value| value.contains(TOKEN));
            assert!(!told || host == liar.endpoint, "{host} was told the token for {}", asked.path);
        }
        (opened, liar)
    }

    /// The files of others are as they were, and nobody holds a lock.
    fn unharmed(&self) {
        assert_eq!(self.outside(), self.strangers);
        let locks = self.home.path().join("cache/hub/.locks/models--org--name");
        assert_eq!(fs::read_dir(locks).map_or(0, Iterator::count), 0, "a lock stays");
    }

    fn refused(&self, parts: &[&str], lie: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) {
        let (opened, liar) = self.fetch(lie);
        let error = opened.map(|_| ()).expect_err(&format!("{parts:?}"));
        let text = error.to_string();
        assert!(text.lines().count() == 1 && text.len() < 2000 && !text.contains(TOKEN), "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
        assert!(liar.log().len() < 60, "{} requests", liar.log().len());
    }

    fn served(&self, lie: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) -> Liar {
        let (opened, liar) = self.fetch(lie);
        assert_eq!(files_of(&opened.unwrap().source.dir), files_of(self.model.path()));
        liar
    }

    /// What arrived, by name.
    fn blobs(&self) -> Vec<(String, u64)> {
        let blobs = fs::read_dir(self.home.path().join("cache/hub/models--org--name/blobs")).into_iter().flatten();
        let blob = |file: fs::DirEntry| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len());
        blobs.flatten().map(blob).collect()
    }
}

fn contents(asked: &Asked) -> bool {
    asked.method == "GET" && !asked.path.starts_with("/api/")
}

/// Names that would lead out of the cache, or nowhere.
fn names(home: &Path) -> Vec<String> {
    let home = home.display();
    vec![
        format!("{home}/victim.txt"),
        "../../../../victim.txt".into(),
        "..".into(),
        "%2e%2e%2f%2e%2e%2fvictim".into(),
        "..%2f..%2f..%2fvictim.txt".into(),
        "a/b".into(),
        "a\\b".into(),
        "a\u{0}b".into(),
        "C:\\victim.txt".into(),
        "a".repeat(300),
        String::new(),
    ]
}

#[test]
fn names_of_contents_lead_nowhere() {
    let home = tempdir().unwrap();
    for name in names(home.path()) {
        let etag = format!("\"{name}\"");
        let everywhere = etag.clone();
        Scene::new().refused(&[], move |asked, reply| {
            if !asked.path.starts_with("/api/") {
                reply.set("ETag", &everywhere);
            }
        });
        if name.contains('\0') {
            // no answer at all
            continue;
        }
        // what GET calls them does not matter: the contents are what HEAD says
        Scene::new().served(move |asked, reply| {
            if contents(asked) {
                reply.set("ETag", &etag);
                reply.set("X-Linked-Etag", &etag);
            }
        });
    }
}

#[test]
fn names_of_commits_lead_nowhere() {
    let home = tempdir().unwrap();
    let more = ["0123", "0123456789ABCDEF0123456789ABCDEF01234567", "main"].map(str::to_owned);
    for name in names(home.path()).into_iter().chain(more) {
        let commit = name.clone();
        if !name.contains('\0') {
            Scene::new().served(move |asked, reply| {
                if !asked.path.starts_with("/api/") {
                    reply.set("X-Repo-Commit", &commit);
                }
            });
        }
        Scene::new().refused(&["the hub names no commit"], move |asked, reply| {
            if asked.path.starts_with("/api/") {
                let text = String::from_utf8(reply.body.clone()).unwrap();
                let said = serde_json::to_string(&name).unwrap();
                reply.body = text.replace(&format!("\"{COMMIT}\""), &said).into_bytes();
            }
        });
    }
}

#[test]
fn the_token_stays_with_the_hub() {
    // contents lie at another host, as those of large files do
    let scene = Scene::new();
    let liar = scene.served(|asked, reply| {
        if asked.own && !asked.path.starts_with("/api/") {
            reply.redirect(302, &format!("{}{}", asked.other, asked.path));
        }
    });
    let hosts = liar.log();
    assert!(hosts.iter().any(|(host, asked)| *host != liar.endpoint && contents(asked)), "the other host was asked");
    assert!(hosts.iter().any(|(host, asked)| *host == liar.endpoint && asked.authorization.is_some()));
    // so may the listing; and who was sent away does not come back with the token
    Scene::new().served(|asked, reply| {
        if asked.own && asked.path.starts_with("/api/") {
            reply.redirect(307, &format!("{}{}", asked.other, asked.path));
        }
    });
    let liar = Scene::new().served(|asked, reply| {
        if contents(asked) && asked.own && !asked.path.ends_with("?back") {
            reply.redirect(302, &format!("{}{}", asked.other, asked.path));
        } else if contents(asked) && !asked.own {
            reply.redirect(302, &format!("{}{}?back", asked.hub, asked.path));
        }
    });
    let back = liar.log().into_iter().filter(|(_, asked)| asked.path.ends_with("?back"));
    assert!(back.map(|(_, asked)| asked.authorization).all(|token| token.is_none()));
    // the scheme of the page, another host
    Scene::new().served(|asked, reply| {
        if contents(asked) && asked.own {
            reply.redirect(302, &format!("{}{}", asked.other.trim_start_matches("http:"), asked.path));
        }
    });
}

#[test]
fn redirects_lead_somewhere_or_end() {
    // within the host, as a moved repository
    Scene::new().served(|asked, reply| {
        if !asked.path.ends_with("?moved") && !asked.path.starts_with("/api/") {
            let to = asked.path.rsplit('/').next().unwrap().to_owned() + "?moved";
            let to = if asked.method == "HEAD" { asked.path.clone() + "?moved" } else { to };
            reply.redirect(308, &to);
        }
    });
    for to in ["", "file:///etc/passwd", "ftp://127.0.0.1/x", "ht!tp://[::1", "data:,x", "http://"] {
        for status in [301, 302, 303, 307, 308] {
            Scene::new().refused(&["sends on to"], move |asked, reply| {
                if contents(asked) {
                    reply.redirect(status, to);
                }
            });
        }
    }
    let nowhere = |status: u16| {
        move |asked: &Asked, reply: &mut Reply| {
            if contents(asked) {
                reply.status = status;
            }
        }
    };
    for status in [300, 302, 304, 399] {
        Scene::new().refused(&["sends on to", "nowhere"], nowhere(status));
    }
    for method in ["HEAD", "GET"] {
        Scene::new().refused(&["sent on more than"], move |asked, reply| {
            if asked.method == method && !asked.path.starts_with("/api/") {
                reply.redirect(302, &asked.path);
            }
        });
    }
    Scene::new().refused(&["sent on more than"], |asked, reply| {
        if asked.path.starts_with("/api/") {
            reply.redirect(302, &(asked.path.clone() + "x"));
        }
    });
}

#[test]
fn what_is_longer_or_shorter_than_announced_is_refused() {
    for (name, announced) in [("config.json", true), ("config.json", false), ("model.safetensors", false)] {
        let scene = Scene::new();
        let length = fs::metadata(scene.model.path().join(name)).unwrap().len();
        let started = Instant::now();
        scene.refused(&[name, "more than the", &length.to_string()], move |asked, reply| {
            if contents(asked) && asked.path.ends_with(name) {
                (reply.endless, reply.length, reply.status) = (true, false, if announced { 206 } else { 200 });
            }
        });
        assert!(started.elapsed() < Duration::from_secs(20));
        assert!(scene.blobs().iter().all(|(name, len)| !name.ends_with(".part") && *len < 1 << 20));
    }
    for (length, parts) in [
        ("0", ["damaged", "config.json"]),
        ("1", ["announces 1 bytes, then", "config.json"]),
        ("1000000", ["announces 1000000 bytes, then", "config.json"]),
        ("1000000000000000", ["free on this disk", "to fetch"]),
        ("-1", ["no usable length", "config.json"]),
        ("18446744073709551615", ["no usable length", "config.json"]),
        ("x", ["no usable length", "config.json"]),
    ] {
        Scene::new().refused(&parts, move |asked, reply| {
            if asked.path.ends_with("config.json") {
                reply.set("X-Linked-Size", length);
            }
        });
    }
}

#[test]
fn contents_are_what_their_name_says() {
    for name in ["config.json", "model.safetensors"] {
        let scene = Scene::new();
        scene.refused(&[name, "damaged"], move |asked, reply| {
            if contents(asked) && asked.path.ends_with(name) {
                *reply.body.last_mut().unwrap() ^= 1;
            }
        });
        assert!(scene.blobs().iter().all(|(name, _)| !name.ends_with(".part")));
        // and the honest hub serves it afterwards
        scene.served(|_, _| {});
    }
    // a name that is no hash is all there is
    Scene::new().served(|asked, reply| {
        if !asked.path.starts_with("/api/") {
            reply.set("ETag", "\"5f3e-1a2b\"");
            reply.set("X-Linked-Etag", &format!("\"v1-{}\"", git_blob(asked.path.as_bytes())));
        }
    });
    Scene::new().refused(&["another name"], |asked, reply| {
        if asked.path.ends_with("config.json") {
            reply.set("X-Linked-Etag", if asked.method == "HEAD" { "\"one\"" } else { "\"two\"" });
        }
    });
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    for (range, part) in [("bytes 7-9/10", "sends byte 7"), ("bytes */5", "sends byte"), ("lines 1", "sends byte")] {
        Scene::new().refused(&[part], move |asked, reply| {
            if contents(asked) {
                reply.status = 206;
                reply.set("Content-Range", range);
            }
        });
    }
    for status in [400, 401, 403, 404, 410, 416, 451] {
        Scene::new().refused(&["org/name"], move |asked, reply| {
            if contents(asked) {
                (reply.status, reply.body) = (status, Vec::new());
            }
        });
    }
    // ranges are a courtesy
    Scene::new().served(|asked, reply| {
        if contents(asked) {
            reply.status = 200;
        }
    });
}

#[test]
fn two_who_fetch_the_same_file_do_not_meet() {
    let scene = Arc::new(Scene::new());
    let liar = Arc::new(Liar::start(files_of(scene.model.path()), |_, _| {}));
    let start = Arc::new(Barrier::new(4));
    let work = |_| {
        let (scene, liar, start) = (scene.clone(), liar.clone(), start.clone());
        thread::spawn(move || {
            start.wait();
            let checkpoint = Checkpoint::open("org/name", &scene.hub(&liar), &Silent).unwrap();
            assert_eq!(files_of(&checkpoint.source.dir), files_of(scene.model.path()));
        })
    };
    let workers: Vec<_> = (0..4).map(work).collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    scene.unharmed();
    let asked = liar.log().into_iter().filter(|(_, asked)| contents(asked)).count();
    assert_eq!(asked, files_of(scene.model.path()).len(), "each file came once");
}

#[test]
fn an_endpoint_that_is_none_is_said() {
    let scene = Scene::new();
    for endpoint in ["hub.example", "ftp://hub.example", "http://", "file:///etc"] {
        let vars = [("HF_HOME", scene.home.path().display().to_string()), ("HF_ENDPOINT", endpoint.to_owned())];
        let vars = BTreeMap::from(vars);
        let hub = Hub::from_vars(|name| vars.get(name).cloned()).unwrap();
        let error: Error = Checkpoint::open("org/name", &hub, &Silent).map(|_| ()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("HF_ENDPOINT"), "{error}");
    }
}
