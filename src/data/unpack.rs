//! Compressed files: which they are, by their first bytes, and what reads them.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read};
use std::path::Path;

use super::guard::fenced;

/// A file being read.
type Raw = Box<dyn BufRead + Send>;

/// Bytes decompressed at a time.
const BUFFER: usize = 256 << 10;

/// Bytes of what was unpacked that a file may ask to be kept: what `xz -9` and `zstd --ultra -21` write.
pub(super) const MEMORY: usize = 64 << 20;

/// A kind of compression. All of them read files of several members, frames or streams, one after the other, whole.
pub(super) struct Codec {
    /// What messages call it.
    pub(super) name: &'static str,
    /// What it adds to a file's name.
    pub(super) ending: &'static str,
    /// Bytes that its files begin with.
    magic: &'static [&'static [u8]],
    open: fn(Raw) -> std::io::Result<Box<dyn Read + Send>>,
}

/// The kinds; a new one is a row here.
pub(super) const CODECS: &[Codec] = &[
    Codec { name: "gzip", ending: "gz", magic: &[&[0x1f, 0x8b]], open: gzip },
    // a file of several frames may begin with one to be skipped: pzstd's do
    Codec { name: "zstd", ending: "zst", magic: &[&[0x28, 0xb5, 0x2f, 0xfd], &[0x50, 0x2a, 0x4d, 0x18]], open: zstd },
    // a first block, or the end of a file without one
    Codec {
        name: "bzip2",
        ending: "bz2",
        magic: &[b"BZh?\x31\x41\x59\x26\x53\x59", b"BZh?\x17\x72\x45\x38\x50\x90"],
        open: bzip2,
    },
    Codec { name: "xz", ending: "xz", magic: &[b"\xfd7zXZ\0"], open: xz },
];

impl Codec {
    /// The compression of a file that begins with `head`, whatever its name.
    pub(super) fn of_bytes(head: &[u8]) -> Option<&'static Self> {
        let starts = |magic: &&[u8]| {
            head.len() >= magic.len() && magic.iter().zip(head).all(|(wanted, byte)| *wanted == b'?' || wanted == byte)
        };
        CODECS.iter().find(|codec| codec.magic.iter().any(starts))
    }

    /// The compression that a name promises.
    pub(super) fn of_name(path: &Path) -> Option<&'static Self> {
        let ending = path.extension()?;
        CODECS.iter().find(|codec| ending.eq_ignore_ascii_case(codec.ending))
    }

    /// Whether unpacking ended with `error` because the file asks for more memory than [`MEMORY`].
    pub(super) fn wants_memory(&self, error: &Error) -> bool {
        // zstd's own words for a window that is too large
        error.kind() == ErrorKind::OutOfMemory || error.to_string().contains("requires too much memory")
    }

    /// What `raw` holds, decompressed as it is read.
    pub(super) fn open(&self, raw: Raw) -> std::io::Result<Raw> {
        Ok(Box::new(BufReader::with_capacity(BUFFER, (self.open)(raw)?)))
    }
}

fn gzip(raw: Raw) -> std::io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(flate2::bufread::MultiGzDecoder::new(raw)))
}

fn zstd(raw: Raw) -> std::io::Result<Box<dyn Read + Send>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
    decoder.window_log_max(MEMORY.ilog2())?;
    Ok(Box::new(decoder))
}

fn bzip2(raw: Raw) -> std::io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(raw)))
}

fn xz(raw: Raw) -> std::io::Result<Box<dyn Read + Send>> {
    // KiB, with a little for the decoder itself
    let most = (MEMORY >> 10) as u32 + 1024;
    Ok(Box::new(Fenced(lzma_rust2::XzReader::new_mem_limit(raw, true, most))))
}

/// A reader whose panics are broken data: files are untrusted.
struct Fenced<R>(R);

impl<R: Read> Read for Fenced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        fenced(|| self.0.read(buffer)).unwrap_or_else(|fault| Err(Error::new(ErrorKind::InvalidData, fault)))
    }
}
