//! Writing through to the disk beside the copying: the flush that makes an output durable before it is renamed would
//! otherwise cost half as much again as the copy.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

/// Bytes written between two flushes.
const EVERY: u64 = 64 << 20;

/// A thread that flushes the files it is handed, one after the other.
#[derive(Debug)]
pub(super) struct Flusher {
    files: Sender<File>,
    thread: JoinHandle<io::Result<()>>,
    unflushed: u64,
}

impl Flusher {
    pub(super) fn start() -> io::Result<Self> {
        let (files, queue) = channel::<File>();
        let flush = move || queue.into_iter().try_for_each(|file| file.sync_data());
        let thread = Builder::new().name("flush".into()).spawn(flush)?;
        Ok(Self { files, thread, unflushed: 0 })
    }

    /// `file` has grown by `bytes`; now and then that is a reason to flush it.
    pub(super) fn grown(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.unflushed += bytes;
        if self.unflushed >= EVERY {
            self.unflushed = 0;
            let file = file.try_clone()?;
            // the thread is gone only after an error, which `finish` returns
            drop(self.files.send(file));
        }
        Ok(())
    }

    /// Waits for the flushes under way.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.files);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread died")))
    }
}
