//! Opening a text file: compression known by its first bytes, a byte-order mark dropped, reads counted.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::unpack::{Codec, MEMORY};
use crate::{Error, Result, files, interrupt};

/// Bytes asked of the system at a time.
const BUFFER: usize = 256 << 10;

/// What helps against a text file that is too long for one document.
pub(super) const CUT: &str = "--text-split lines or --text-split paragraphs cuts it into documents";

/// A text file, decompressed, without its byte-order mark.
pub(super) struct Input {
    pub(super) path: Arc<Path>,
    reader: Watched,
    codec: Option<&'static Codec>,
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

/// A reader that ends when the program is interrupted: a few megabytes may hold gigabytes of nothing.
struct Watched(Box<dyn BufRead + Send>);

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        interrupt::check().map_err(std::io::Error::other)?;
        self.0.read(buffer)
    }
}

impl BufRead for Watched {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        interrupt::check().map_err(std::io::Error::other)?;
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

/// How much of a line was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing is left.
    Nothing,
    /// All of it.
    Whole,
    /// Its beginning; the rest is still to be read.
    Beginning,
}

impl Input {
    /// Opens `path`; `bytes` counts what is read of it.
    pub(super) fn open(path: &Path, bytes: Arc<AtomicU64>) -> Result<Self> {
        let file = BufReader::with_capacity(BUFFER, Counted { file: files::open(path)?.0, bytes });
        Self::new(path, file)
    }

    fn new(path: &Path, mut raw: impl BufRead + Send + 'static) -> Result<Self> {
        let head = raw.fill_buf().map_err(|e| Error::io(path, &e))?;
        let codec = Codec::of_bytes(head);
        if let Some(promised) = Codec::of_name(path).filter(|_| codec.is_none() && !head.is_empty()) {
            return Err(Error::work(format!(
                "{}: not {} data, although the name ends in .{}",
                path.display(),
                promised.name,
                promised.ending
            )));
        }
        let raw = Box::new(raw);
        let reader = match codec {
            Some(codec) => codec.open(raw).map_err(|e| fault(path, Some(codec), &e))?,
            None => raw,
        };
        let mut input = Self { path: path.into(), reader: Watched(reader), codec };
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
        let (path, codec) = (Arc::clone(&self.path), self.codec);
        self.reader.fill_buf().map_err(|e| fault(&path, codec, &e))
    }

    /// Takes `bytes` of what [`Input::fill`] showed.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }

    /// Puts the next line, with its line feed, into `line`: `most` bytes of it at most.
    pub(super) fn line(&mut self, line: &mut Vec<u8>, most: usize) -> Result<Taken> {
        line.clear();
        let mut reader = (&mut self.reader).take(most as u64);
        let read = reader.read_until(b'\n', line).map_err(|e| fault(&self.path, self.codec, &e))?;
        Ok(match read {
            0 => Taken::Nothing,
            read if read == most && line.last() != Some(&b'\n') => Taken::Beginning,
            _ => Taken::Whole,
        })
    }

    /// The rest of the file; `None` when it is longer than `most` bytes.
    pub(super) fn rest(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut reader = (&mut self.reader).take(most as u64 + 1);
        reader.read_to_end(&mut bytes).map_err(|e| fault(&self.path, self.codec, &e))?;
        Ok((bytes.len() <= most).then_some(bytes))
    }
}

/// A read error, with those of a decoder worded for the user.
fn fault(path: &Path, codec: Option<&Codec>, error: &std::io::Error) -> Error {
    if let Err(stopped) = interrupt::check() {
        return stopped;
    }
    match codec {
        Some(codec) if error.raw_os_error().is_none() => {
            let (path, name) = (path.display(), codec.name);
            if codec.wants_memory(error) {
                let most = MEMORY >> 20;
                return Error::request(format!(
                    "{path}: the {name} data take more than {most} MiB of memory to unpack; unpack the file first"
                ));
            }
            Error::work(match error.kind() {
                ErrorKind::UnexpectedEof => format!("{path}: the {name} data ends early, the file is incomplete"),
                _ => format!("{path}: broken {name} data: {error}"),
            })
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
        while input.line(&mut line, 1 << 20)? != Taken::Nothing {
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

    /// Every kind of compression of `text`.
    fn packed(text: &str) -> Vec<(&'static str, Vec<u8>)> {
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        bzip2.write_all(text.as_bytes()).unwrap();
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        zstd.include_checksum(true).unwrap();
        zstd.write_all(text.as_bytes()).unwrap();
        vec![("gz", gzip(text)), ("zst", zstd.finish().unwrap()), ("bz2", bzip2.finish().unwrap()), ("xz", xz(text))]
    }

    /// An xz stream of stored LZMA2 chunks, with CRC-32 sums: a format of few bytes (xz-file-format 1.2.1).
    fn xz(text: &str) -> Vec<u8> {
        let crc = |bytes: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            crc.sum().to_le_bytes()
        };
        let number = |mut value: usize| {
            let mut bytes = Vec::new();
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
            bytes
        };
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
        let flags = [0_u8, 1];
        let mut stream = b"\xfd7zXZ\0".to_vec();
        stream.extend(flags);
        stream.extend(crc(&flags));
        let start = stream.len();
        // header of 12 bytes, one filter: LZMA2 with a dictionary of 1 MiB
        let header = [2, 0, 0x21, 1, 16, 0, 0, 0];
        stream.extend(header);
        stream.extend(crc(&header));
        for (index, chunk) in text.as_bytes().chunks(1 << 16).enumerate() {
            stream.push(if index == 0 { 1 } else { 2 });
            stream.extend(((chunk.len() - 1) as u16).to_be_bytes());
            stream.extend(chunk);
        }
        stream.push(0);
        let unpadded = stream.len() - start + 4;
        pad(&mut stream);
        stream.extend(crc(text.as_bytes()));
        let mut index = vec![0, 1];
        index.extend(number(unpadded));
        index.extend(number(text.len()));
        pad(&mut index);
        let mut footer = ((index.len() as u32 + 4) / 4 - 1).to_le_bytes().to_vec();
        footer.extend(flags);
        stream.extend(&index);
        stream.extend(crc(&index));
        stream.extend(crc(&footer));
        stream.extend(footer);
        stream.extend(b"YZ");
        stream
    }

    #[test]
    fn every_compression_in_one_piece_and_in_several() {
        let text = "line\n".repeat(40_000);
        for ((ending, whole), (_, more)) in packed(&text).into_iter().zip(packed("x\ny")) {
            let name = format!("a.jsonl.{ending}");
            assert_eq!(lines(&name, whole.clone()).unwrap().concat(), text, "{ending}");
            assert_eq!(lines("a.jsonl", whole.clone()).unwrap().concat(), text, "{ending} under another name");
            let several = [whole.clone(), more.clone(), whole].concat();
            assert_eq!(lines(&name, several).unwrap().concat(), format!("{text}x\ny{text}"), "{ending}");
        }
        assert_eq!(
            lines("a.zst", [b"\x50\x2a\x4d\x18\x02\0\0\0ab".to_vec(), packed("x").remove(1).1].concat()).unwrap(),
            ["x"]
        );
        assert!(packed("").into_iter().all(|(name, bytes)| lines(name, bytes).unwrap().is_empty()));
    }

    #[test]
    fn files_cut_anywhere_or_changed_are_told_from_whole_ones() {
        let text: String = (0..300).map(|i| format!("{}\n", i * i * 7919)).collect();
        for (ending, whole) in packed(&text) {
            let name = format!("a.txt.{ending}");
            for cut in (1..whole.len()).step_by(37).chain([whole.len() - 1, whole.len() - 5]) {
                let message = lines(&name, whole[..cut].to_vec()).unwrap_err().to_string();
                assert!(message.starts_with(&format!("{name}: ")), "{message}");
                if cut > 12 {
                    assert!(message.contains("ends early"), "{ending} cut at {cut} of {}: {message}", whole.len());
                }
            }
            let mut changed = whole.clone();
            changed[whole.len() / 2] ^= 0x55;
            let message = lines(&name, changed).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: ")) && message.lines().count() == 1, "{message}");
            let other = lines(&name, b"{\"text\": 1}".to_vec()).unwrap_err().to_string();
            assert!(other.contains("data, although the name ends in"), "{other}");
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
