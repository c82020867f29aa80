//! One file from the hub into the cache: it stops on request, goes on where it broke, is never longer than announced,
//! and counts only once it is what its name says.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Instant;

use super::Hub;
use super::ask::{Facts, Failure, TRIES, pause};
use super::cache::RepoCache;
use super::contents::Part;
use super::http::{Answer, Ask, Client, PATIENCE, TICK, spawn};
use super::repo::Repo;
use crate::progress::Progress;
use crate::{Error, Result, interrupt};

/// A file at a commit, and what the hub says of it.
pub(super) struct Wanted<'a> {
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
    pub(super) facts: Facts,
}

/// What the thread that reads from the network passes on.
enum News {
    /// The answer begins.
    Begins(Start),
    /// The next bytes.
    Bytes(Vec<u8>),
}

/// How an answer begins.
struct Start {
    /// The byte it begins with; absent if it does not say.
    from: Option<u64>,
    /// Bytes that it announces.
    announced: Option<u64>,
    /// What the hub calls the contents in this answer; another host's name for them says nothing.
    etag: Option<String>,
}

/// Most bytes passed on at once.
const CHUNK: usize = 1 << 17;
/// Chunks that may wait for the disk.
const WAITING: usize = 16;

impl Hub {
    /// Brings the file into the cache and returns its place in the snapshot. Advances `progress` by its bytes.
    pub(super) fn download(
        &self,
        cache: &RepoCache,
        wanted: &Wanted,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Failure> {
        let Wanted { commit, file, facts, .. } = wanted;
        let blob = cache.blob(&facts.etag);
        let at = |error: std::io::Error| Error::io(&blob, &error);
        fs::create_dir_all(blob.parent().unwrap_or(&blob)).map_err(at)?;
        let _lock = cache.lock(&facts.etag, progress)?;
        if blob.is_file() {
            progress.advance(facts.size);
        } else {
            let mut part = Part::open(cache.part(&facts.etag), &facts.sum, facts.size)?;
            match self.fill(wanted, &mut part, progress) {
                Ok(()) => part.keep(&blob)?,
                Err(failure) => {
                    // what is there is good for the next time
                    if part.len() == 0 {
                        part.discard()?;
                    }
                    return Err(failure);
                }
            }
        }
        Ok(cache.link(commit, file, &facts.etag)?)
    }

    /// Downloads until the contents are there and verified.
    fn fill(&self, wanted: &Wanted, part: &mut Part, progress: &dyn Progress) -> Result<(), Failure> {
        let Wanted { repo, file, facts, .. } = wanted;
        let (mut tries, mut shown, mut afresh) = (0, 0, false);
        loop {
            let before = part.len();
            let moved = if before < facts.size { self.transfer(wanted, part, &mut shown, progress) } else { Ok(()) };
            match moved {
                Ok(()) if part.is(&facts.etag, facts.size) => {
                    progress.advance(part.len() - shown);
                    return Ok(());
                }
                // what was gone on with may have been something else; what came in one go is damaged
                Ok(()) | Err(Failure::Refused(416, ..)) if before > 0 && !afresh => {
                    afresh = true;
                    part.clear()?;
                }
                Ok(()) => {
                    part.clear()?;
                    let reason = "arrived damaged: its length or hash is not what the hub says; try again";
                    return Err(Error::work(format!("{repo}: {file} {reason}")).into());
                }
                Err(Failure::Unreachable(why) | Failure::Busy(why)) => {
                    tries = if part.len() > before { 1 } else { tries + 1 };
                    if tries == TRIES {
                        return Err(Failure::Unreachable(format!("{file}: {why}")));
                    }
                    pause(tries)?;
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Asks once for what `part` lacks and appends what comes, until all is there or the connection breaks. Advances
    /// `progress` beyond the `shown` bytes of the file.
    fn transfer(
        &self,
        wanted: &Wanted,
        part: &mut Part,
        shown: &mut u64,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let Wanted { repo, file, facts, .. } = wanted;
        let fault = |what: String| Failure::Other(Error::work(format!("{repo}: {file}: the hub {what}")));
        let size = facts.size;
        let news = listen(&self.client, facts, part.len())?;
        let Some(News::Begins(start)) = next(&news)? else {
            return Err(Failure::Unreachable("no answer".to_owned()));
        };
        // without a hash, only the hub's name for the contents tells that they are still the same
        let same = facts.sum.is_known() || start.etag.as_ref() == Some(&facts.etag);
        match start.from.unwrap_or(part.len()) {
            from if from == part.len() && (from == 0 || same) => {}
            0 => part.clear()?,
            from if from == part.len() => {
                part.clear()?;
                return Err(Failure::Busy("its contents are not the ones that came before".to_owned()));
            }
            from => return Err(fault(format!("sends byte {from} when asked for byte {}", part.len()))),
        }
        if !same && start.etag.is_some() {
            return Err(fault("calls its contents by another name (ETag) when they are asked for".to_owned()));
        }
        let left = size - part.len();
        if let Some(announced) = start.announced.filter(|announced| *announced != left) {
            return Err(fault(format!("announces {left} bytes, then {announced}")));
        }
        while let Some(News::Bytes(bytes)) = next(&news)? {
            if bytes.len() as u64 > size - part.len() {
                part.clear()?;
                return Err(fault(format!("sends more than the {size} bytes that it announces")));
            }
            part.append(&bytes)?;
            progress.advance(part.len().saturating_sub(*shown));
            *shown = part.len().max(*shown);
        }
        if part.len() < size {
            return Err(Failure::Unreachable(format!("the connection ended after {} of {size} bytes", part.len())));
        }
        Ok(())
    }
}

/// What comes next, nothing at the end; looks for Ctrl-C meanwhile.
fn next(news: &Receiver<Result<News, Failure>>) -> Result<Option<News>, Failure> {
    let since = Instant::now();
    loop {
        interrupt::check()?;
        match news.recv_timeout(TICK) {
            Ok(news) => return news.map(Some),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if since.elapsed() > 2 * PATIENCE => {
                let silence = 2 * PATIENCE.as_secs();
                return Err(Failure::Unreachable(format!("nothing has come for {silence} s")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Reads the contents from byte `from` on, on a thread of its own: it cannot be asked to stop, but it can be left
/// alone.
fn listen(client: &Client, facts: &Facts, from: u64) -> Result<Receiver<Result<News, Failure>>> {
    let (sender, news) = sync_channel(WAITING);
    let (client, url) = (client.clone(), facts.url.clone());
    spawn(move || match client.send(Ask::Contents(from), url) {
        Ok(answer) => pass_on(answer, &sender),
        Err(failure) => drop(sender.send(Err(failure))),
    })?;
    Ok(news)
}

/// Passes the answer on until it ends or nobody listens any more.
fn pass_on(mut answer: Answer, to: &SyncSender<Result<News, Failure>>) {
    let start = start(&answer);
    if to.send(Ok(News::Begins(start))).is_err() {
        return;
    }
    let mut body = answer.response.body_mut().as_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        match body.read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => {
                if to.send(Ok(News::Bytes(chunk[..read].to_vec()))).is_err() {
                    return;
                }
            }
            Err(error) => return drop(to.send(Err(Failure::Busy(error.to_string())))),
        }
    }
}

fn start(answer: &Answer) -> Start {
    let length = |name| answer.header(name).and_then(|length| length.parse().ok());
    let from = match answer.response.status().as_u16() {
        // `bytes 100-199/200`
        206 => answer.header("content-range").map(|range| {
            let digits = range.trim_start_matches("bytes").trim_start().split('-').next();
            digits.and_then(|from| from.parse().ok()).unwrap_or(u64::MAX)
        }),
        _ => Some(0),
    };
    let etag = answer.etag().filter(|_| answer.own);
    Start { from, announced: length("content-length"), etag: etag.map(|(etag, _)| etag.to_owned()) }
}
