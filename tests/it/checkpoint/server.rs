//! A hub of one process: listings, redirects, ranges, tokens, and the ways in which connections break.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest, Sha256};

/// Contents by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The commit every branch stands at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Data sets besides `org/name`.
const DATASETS: [&str; 2] = ["allenai/c4", "aps/super_glue"];

/// How the server behaves; tests change it between two calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// Nobody without this token gets in: `gated` says so, otherwise the repository seems not to be there.
    pub(crate) token: Option<&'static str>,
    pub(crate) gated: bool,
    /// Contents break off after this many bytes, so many times.
    pub(crate) breaks: Option<(usize, usize)>,
    /// Contents have one byte wrong.
    pub(crate) damaged: bool,
    /// So many requests are answered 503 first.
    pub(crate) overloaded: usize,
}

/// A running server. Stops answering when the process ends.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// Files of every repository, `org/name` and [`DATASETS`], models and data sets alike.
    files: Files,
    manners: Mutex<Manners>,
    log: Mutex<Vec<String>>,
}

struct Request {
    method: String,
    path: String,
    /// `bytes=0-0`, `bytes=100-`.
    range: Option<String>,
    authorization: Option<String>,
}

impl Server {
    pub(crate) fn start(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { files, manners: Mutex::default(), log: Mutex::default() });
        let server = Self { endpoint, shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(&shared, stream));
            }
        });
        server
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap() = manners;
    }

    /// Requests since the last call: `GET /org/name/resolve/... bytes=100-`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.log.lock().unwrap())
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, path, range: None, authorization: None };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { return Some(request) };
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let out = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let range = request.range.as_ref().map_or(String::new(), |range| format!(" {range}"));
        shared.log.lock().unwrap().push(format!("{} {}{range}", request.method, request.path));
        if !answer(shared, &request, &out) {
            return;
        }
    }
}

/// Answers; false closes the connection.
fn answer(shared: &Shared, request: &Request, mut out: &TcpStream) -> bool {
    let mut manners = shared.manners.lock().unwrap();
    let plain = |status: &str, headers: &str| {
        write!(&mut &*out, "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n").is_ok()
    };
    let refuse = |status: u16, code: &str, message: &str| {
        plain(&format!("{status} No"), &format!("X-Error-Code: {code}\r\nX-Error-Message: {message}\r\n"))
    };
    let redirect = |to: &str| plain("307 Moved", &format!("Location: {to}\r\n"));
    if manners.overloaded > 0 {
        manners.overloaded -= 1;
        return refuse(503, "", "");
    }
    if let Some(token) = manners.token
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return if manners.gated { refuse(401, "GatedRepo", "restricted") } else { refuse(401, "RepoNotFound", "") };
    }
    let mut path = request.path.replace("%2F", "/").replace("%20", " ").replace("%23", "#");
    for name in DATASETS {
        path = path.replace(&format!("datasets/{name}/"), "datasets/org/name/");
    }
    if let Some(rest) = path.strip_prefix("/api/") {
        return match rest {
            "models/org/name/revision/main" | "models/org/name/revision/v1" | "datasets/org/name/revision/main" => {
                let siblings: Vec<_> = shared.files.keys().map(|name| json!({"rfilename": name})).collect();
                let body = json!({"sha": COMMIT, "siblings": siblings, "gated": false}).to_string();
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_ok()
            }
            _ if rest.starts_with("models/old/name/") => redirect(&path.replace("/old/", "/org/")),
            _ if rest.starts_with("models/org/name/") => refuse(404, "RevisionNotFound", "Invalid rev id"),
            _ => refuse(401, "RepoNotFound", "Repository not found"),
        };
    }
    // the repository moved: its old name redirects to the new one
    if path.starts_with("/old/name/") {
        return redirect(&path.replace("/old/", "/org/"));
    }
    // large contents lie elsewhere
    let (path, elsewhere) = match path.strip_prefix("/cdn") {
        Some(path) => (path.to_owned(), true),
        None => (path, false),
    };
    let file = ["/org/name/resolve/", "/datasets/org/name/resolve/"].iter().find_map(|front| path.strip_prefix(front));
    let Some((_, file)) = file.and_then(|rest| rest.split_once('/')) else {
        return refuse(404, "RepoNotFound", "");
    };
    let Some(contents) = shared.files.get(file) else {
        return refuse(404, "EntryNotFound", "Entry not found");
    };
    let large = file.ends_with(".safetensors") || file.ends_with(".gz");
    let sum: String = Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect();
    let commit = format!("X-Repo-Commit: {COMMIT}\r\n");
    if large && !elsewhere {
        let linked = format!("X-Linked-Etag: \"{sum}\"\r\nX-Linked-Size: {}\r\n", contents.len());
        let location = format!("Location: http://{}/cdn{}\r\n", out.local_addr().unwrap(), request.path);
        return plain("302 Found", &format!("{commit}{linked}{location}"));
    }
    let len = contents.len();
    let range = request.range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (status, mut body) = match range.map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap_or(len - 1))) {
        Some((from, to)) if from < len => {
            (format!("206 Partial Content\r\nContent-Range: bytes {from}-{to}/{len}"), contents[from..=to].to_vec())
        }
        Some(_) => return plain("416 Range Not Satisfiable", &commit),
        None => ("200 OK".to_owned(), contents.clone()),
    };
    if let (true, Some(byte)) = (manners.damaged, body.last_mut()) {
        *byte ^= 1;
    }
    let etag = format!("ETag: W/\"{}\"\r\n", &sum[..40]);
    let sent = write!(out, "HTTP/1.1 {status}\r\n{commit}{etag}Content-Length: {}\r\n\r\n", body.len());
    if sent.is_err() || request.method == "HEAD" {
        return sent.is_ok();
    }
    if let Some((after, times @ 1..)) = manners.breaks
        && body.len() > after
    {
        manners.breaks = Some((after, times - 1));
        _ = out.write_all(&body[..after]);
        return false;
    }
    out.write_all(&body).is_ok()
}

/// Every file under `dir`, by its path with `/`.
pub(crate) fn files_of(dir: &std::path::Path) -> Files {
    let mut files = Files::new();
    for file in std::fs::read_dir(dir).unwrap().flatten() {
        let mut contents = Vec::new();
        std::fs::File::open(file.path()).unwrap().read_to_end(&mut contents).unwrap();
        files.insert(file.file_name().into_string().unwrap(), contents);
    }
    files
}
