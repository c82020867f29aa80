//! Opening a text file: gzip known by its first bytes, a byte-order mark dropped, reads counted.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// Bytes asked of the system at a time.
const BUFFER: usize = 256 << 10;

/// The longest line, JSON item or whole-file document that is read into memory, in bytes.
pub(super) const LONGEST: u64 = 256 << 20;

/// A text file, decompressed, without its byte-order mark.
pub(super) struct Input {
    pub(super) path: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
}

/// Counts the bytes read from a file, before decompression.
struct Counted {
    file: File,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Opens a file that must not be a directory (which `File::open` accepts on Unix).
pub(super) fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| Error::io(path, &e))?;
    let metadata = file.metadata().map_err(|e| Error::io(path, &e))?;
    if metadata.is_dir() {
        return Err(Error::request(format!("{}: is a directory, expected a file", path.display())));
    }
    Ok(file)
}

impl Input {
    /// Opens `path`; `bytes` counts what is read of it.
    pub(super) fn open(path: &Path, bytes: Arc<AtomicU64>) -> Result<Self> {
        let file = BufReader::with_capacity(BUFFER, Counted { file: open_file(path)?, bytes });
        Self::new(path, file)
    }

    fn new(path: &Path, mut raw: impl BufRead + Send + 'static) -> Result<Self> {
        let head = raw.fill_buf().map_err(|e| Error::io(path, &e))?;
        let reader: Box<dyn BufRead + Send> = if head.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw)))
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) && !head.is_empty() {
            return Err(Error::work(format!("{}: not gzip data, although the name ends in .gz", path.display())));
        } else {
            Box::new(raw)
        };
        let mut input = Self { path: path.into(), reader };
        let head = input.fill()?;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(Error::work(format!("{}: the text is UTF-16, expected UTF-8", path.display())));
        }
        if head.starts_with("\u{feff}".as_bytes()) {
            input.reader.consume(3);
        }
        Ok(input)
    }

    /// What is buffered of the decompressed text; empty at the end.
    pub(super) fn fill(&mut self) -> Result<&[u8]> {
        // a borrow that is returned from one arm only needs the error mapped without `self`
        let path = Arc::clone(&self.path);
        self.reader.fill_buf().map_err(|e| fault(&path, &e))
    }

    /// Takes `bytes` of what [`Input::fill`] showed.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// Puts the next line, with its line feed, into `line`; false at the end of the file.
    pub(super) fn line(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        let read = (&mut self.reader).take(LONGEST).read_until(b'\n', line).map_err(|e| fault(&self.path, &e))?;
        if read as u64 == LONGEST && line.last() != Some(&b'\n') {
            return Err(self.too_long("a line"));
        }
        Ok(read > 0)
    }

    /// The rest of the file.
    pub(super) fn rest(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.reader).take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| fault(&self.path, &e))?;
        if bytes.len() as u64 > LONGEST {
            return Err(self.too_long("the text"));
        }
        Ok(bytes)
    }

    /// The error for a piece that does not fit into memory sensibly.
    pub(super) fn too_long(&self, what: &str) -> Error {
        Error::work(format!("{}: {what} is longer than {} MiB", self.path.display(), LONGEST >> 20))
    }
}

/// A read error, with gzip's own worded for the user.
fn fault(path: &Path, error: &std::io::Error) -> Error {
    let path: PathBuf = path.into();
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            Error::work(format!("{}: the gzip data ends early, the file is incomplete", path.display()))
        }
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            Error::work(format!("{}: broken gzip data: {error}", path.display()))
        }
        _ => Error::io(path, error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn lines(name: &str, bytes: Vec<u8>) -> Result<Vec<String>> {
        let mut input = Input::new(Path::new(name), Cursor::new(bytes))?;
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        while input.line(&mut line)? {
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
        Ok(lines)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_gzip_and_several_gzip_members_read_alike() {
        let two = [gzip("a\nb"), gzip("c\n")].concat();
        for bytes in [b"a\nbc\n".to_vec(), gzip("a\nbc\n"), two] {
            assert_eq!(lines("x", bytes).unwrap(), ["a\n", "bc\n"]);
        }
    }

    #[test]
    fn byte_order_marks() {
        assert_eq!(lines("x", b"\xef\xbb\xbfa".to_vec()).unwrap(), ["a"]);
        assert_eq!(lines("x", gzip("\u{feff}a")).unwrap(), ["a"]);
        assert!(lines("x", b"\xff\xfea\0".to_vec()).unwrap_err().to_string().contains("UTF-16"));
    }

    #[test]
    fn broken_gzip_names_the_file() {
        let whole = gzip(&"hello world ".repeat(1000));
        let cut = lines("c4.json.gz", whole[..whole.len() / 2].to_vec()).unwrap_err().to_string();
        assert!(cut.starts_with("c4.json.gz: ") && cut.contains("ends early"), "{cut}");
        let wrong = lines("c4.json.gz", b"{}".to_vec()).unwrap_err().to_string();
        assert!(wrong.contains("not gzip"), "{wrong}");
        let mut flipped = whole.clone();
        flipped[20] ^= 0xff;
        assert!(lines("c4.json.gz", flipped).is_err());
    }
}
