//! Where a recipe's sections compute.

use toml::{Table, Value};

/// Where all sections compute, whatever they say themselves: `None` leaves it to them.
#[derive(Clone, Debug, Default)]
pub struct Compute {
    /// Where: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in.
    pub dtype: Option<String>,
    /// Cap on memory.
    pub memory: Option<String>,
}

impl Compute {
    /// Puts it into the sections of a recipe that compute.
    pub(super) fn put(&self, table: &mut Table) {
        let said = [("device", &self.device), ("dtype", &self.dtype), ("memory", &self.memory)];
        for section in ["repair", "analyze", "heal", "eval", "bench"] {
            let Some(Value::Table(section)) = table.get_mut(section) else { continue };
            for (key, value) in said {
                section.extend(value.clone().map(|value| (key.to_owned(), Value::String(value))));
            }
        }
    }
}
