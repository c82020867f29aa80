//! What a cut is written as: weight files of safetensors, or a GGUF file.

use std::path::Path;
use std::sync::Arc;

use super::Cut;
use super::cut::Shrunk;
use super::gguf::GgufCut;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::export::{Export, StoredAs};
use crate::progress::Progress;
use crate::weights::Identical;
use crate::{Context, Error, Result};

/// The container of a cut.
#[derive(Debug)]
pub(super) enum Container {
    /// Weight files of safetensors.
    Safetensors,
    /// A GGUF file of a source that is one: bytes of its tensors as they are.
    Copied(GgufCut),
    /// A GGUF file whose matrices are stored anew, in this type.
    Stored(Box<Export>, &'static StoredAs),
}

impl Cut {
    /// The same as a GGUF file, of a source that is one: bytes of its tensors as they are.
    ///
    /// # Errors
    /// Request: a plan of more than whole layers, one that llama.cpp would read otherwise, a source in another
    /// container. Work: tensors that disagree with the layer count.
    pub fn in_gguf(self, allow_unsliced: &[String]) -> Result<Self> {
        let source = self.blueprint.source().gguf.as_ref();
        let source = source.ok_or_else(|| Error::request("the model is no GGUF file"))?;
        let gguf = GgufCut::new(source, self.plan(), allow_unsliced)?;
        let (edits, parameters, bytes) = (gguf.edits.clone(), gguf.parameters, gguf.bytes);
        Ok(Self { edits, parameters, bytes, container: Container::Copied(gguf), ..self })
    }

    /// The same as a GGUF file with its matrices in the type `stored`, of a model called `name`: the file that an
    /// [`Export`] of the written checkpoint makes, which is not written. A repair afterwards makes safetensors of it
    /// again.
    ///
    /// # Errors
    /// Request: what llama.cpp does not have or this program has no names for. Work: a broken tokenizer.
    pub fn stored_as(self, stored: &'static StoredAs, name: &str) -> Result<Self> {
        let place = || self.blueprint.source().source.dir.display();
        let opened = Arc::new(self.blueprint.open()?);
        let spec = ModelSpec::from_config(&opened.config).context(place)?;
        spec.check(&opened.index).context(place)?;
        let export = Export::new(&opened, &spec, stored, name).context(|| format!("--to gguf: {}", place()))?;
        let bytes = Shrunk { after: export.data(), ..self.bytes };
        Ok(Self { bytes, container: Container::Stored(Box::new(export), stored), ..self })
    }

    /// The type of the matrices where they are stored anew, and how many are in a wider one: their rows are no whole
    /// blocks.
    #[must_use]
    pub fn stored(&self) -> Option<(&'static StoredAs, usize)> {
        match &self.container {
            Container::Stored(export, stored) => Some((stored, export.odd())),
            Container::Safetensors | Container::Copied(_) => None,
        }
    }

    /// Names of the weight files and their bytes.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        match &self.container {
            Container::Copied(gguf) => vec![(gguf.file.name.clone(), gguf.file.size())],
            Container::Stored(export, _) => vec![(export.name().to_owned(), export.size())],
            Container::Safetensors => {
                let shards = &self.blueprint.shards().shards;
                shards.iter().map(|shard| (shard.file.clone(), shard.size())).collect()
            }
        }
    }

    /// Writes weights, and side files and config where the container does not hold them.
    pub(super) fn write_weights(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        match &self.container {
            Container::Copied(gguf) => gguf.write(dir, progress),
            Container::Stored(export, _) => export.write(dir, progress),
            Container::Safetensors => self.blueprint.write(dir, progress),
        }
    }

    /// Compares `written`, in `dir`, with what was decided, byte for byte.
    ///
    /// # Errors
    /// Request: numbers that were stored anew, which are no bytes of the source's. Work: the first difference, or a
    /// file that cannot be read. Interrupted.
    pub fn verify(&self, written: &Checkpoint, dir: &Path, progress: &dyn Progress) -> Result<Identical> {
        match &self.container {
            Container::Copied(gguf) => gguf.verify(dir, progress),
            Container::Stored(..) => Err(Error::request("numbers stored anew are no bytes of the source's")),
            Container::Safetensors => self.blueprint.verify(written, progress),
        }
    }
}
