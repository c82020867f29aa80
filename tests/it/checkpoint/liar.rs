//! A hub of one process whose honest answers a test may change, and another host beside it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::checkpoint::server::Files;

/// The commit every branch stands at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    range: Option<String>,
    /// Whether the hub is asked; otherwise the other host is.
    pub(crate) own: bool,
    /// Addresses of the two.
    pub(crate) hub: String,
    pub(crate) other: String,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body goes on until the reader leaves, or for half a gigabyte.
    pub(crate) endless: bool,
    /// Whether the body's length is announced.
    pub(crate) length: bool,
}

impl Reply {
    fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body, endless: false, length: true }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn redirect(&mut self, status: u16, to: &str) {
        self.status = status;
        self.body.clear();
        self.set("Location", to);
    }
}

type Lie = dyn Fn(&Asked, &mut Reply) + Send + Sync;

/// A running hub. Stops answering when the process ends.
pub(crate) struct Liar {
    pub(crate) endpoint: String,
    log: Arc<Mutex<Vec<(String, Asked)>>>,
}

impl Liar {
    pub(crate) fn start(files: Files, lie: impl Fn(&Asked, &mut Reply) + Send + Sync + 'static) -> Self {
        let (files, lie, log) = (Arc::new(files), Arc::new(lie) as Arc<Lie>, Arc::new(Mutex::new(Vec::new())));
        let hosts = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, other] = [0, 1].map(|host: usize| format!("http://{}", hosts[host].local_addr().unwrap()));
        for (host, listener) in hosts.into_iter().enumerate() {
            let (files, lie, log) = (files.clone(), lie.clone(), log.clone());
            let (hub, other) = (endpoint.clone(), other.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (files, lie, log) = (files.clone(), lie.clone(), log.clone());
                    let mut asked = Asked {
                        method: String::new(),
                        path: String::new(),
                        authorization: None,
                        range: None,
                        own: host == 0,
                        hub: hub.clone(),
                        other: other.clone(),
                    };
                    thread::spawn(move || {
                        let mut out = stream.try_clone().unwrap();
                        let mut reader = BufReader::new(stream);
                        while read(&mut reader, &mut asked).is_some() {
                            let host = if asked.own { &asked.hub } else { &asked.other };
                            log.lock().unwrap().push((host.clone(), asked.clone()));
                            let mut reply = honest(&files, &asked);
                            lie(&asked, &mut reply);
                            if write(&mut out, &asked, &reply).is_none() {
                                return;
                            }
                        }
                    });
                }
            });
        }
        Self { endpoint, log }
    }

    /// Who was asked what.
    pub(crate) fn log(&self) -> Vec<(String, Asked)> {
        self.log.lock().unwrap().clone()
    }
}

fn read(reader: &mut BufReader<TcpStream>, asked: &mut Asked) -> Option<()> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    (asked.method, asked.path) = (words.next()?.to_owned(), words.next()?.to_owned());
    (asked.authorization, asked.range) = (None, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { return Some(()) };
        match name.to_lowercase().as_str() {
            "range" => asked.range = Some(value.to_owned()),
            "authorization" => asked.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

/// What an honest hub answers: large files are called by their SHA-256, small ones by git's hash.
fn honest(files: &Files, asked: &Asked) -> Reply {
    if asked.path.starts_with("/api/models/org/name/revision/main") {
        let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
        return Reply::new(200, json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes());
    }
    let name = asked.path.split(['/', '?']).rfind(|part| *part != "moved" && *part != "back").unwrap_or_default();
    let Some(contents) = files.get(name) else { return Reply::new(404, Vec::new()) };
    let sum: String = match name.ends_with(".safetensors") {
        true => hex(&Sha256::digest(contents)),
        false => git_blob(contents),
    };
    let from = asked.range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from = from.filter(|from| *from < contents.len());
    let mut reply = Reply::new(if from.is_some() { 206 } else { 200 }, contents[from.unwrap_or(0)..].to_vec());
    if let Some(from) = from {
        reply.set("Content-Range", &format!("bytes {from}-{}/{}", contents.len() - 1, contents.len()));
    }
    reply.set("ETag", &format!("\"{sum}\""));
    reply.set("X-Repo-Commit", COMMIT);
    reply.set("X-Linked-Size", &contents.len().to_string());
    reply
}

/// Git's name of contents.
pub(crate) fn git_blob(contents: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", contents.len())).chain_update(contents).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(out: &mut TcpStream, asked: &Asked, reply: &Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Answer\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if reply.length && reply.status != 304 {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    out.write_all((head + "\r\n").as_bytes()).ok()?;
    if asked.method == "HEAD" || reply.status == 304 {
        return Some(());
    }
    out.write_all(&reply.body).ok()?;
    if reply.endless {
        let zeros = vec![0; 1 << 20];
        (0..512).try_for_each(|_| out.write_all(&zeros)).ok()?;
    }
    reply.length.then_some(())
}
