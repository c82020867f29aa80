//! The state of the machine as people look at it.

use std::fmt;

use super::doctor::{Disk, DoctorReport, HubReport};
use crate::checkpoint::{ByteSize, Cached};
use crate::model::limits::Limit;
use crate::shown::shown;

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.vector_units.map_or_else(|| "no vector units".to_owned(), |units| format!("{units} in use"));
        let units = self.bf16_units.map_or_else(|| units.clone(), |own| format!("{units}, {own} for bf16"));
        writeln!(f, "prune      {}, {}", self.version, self.system)?;
        writeln!(f, "cpu        {}, {units}", if self.cpu.is_empty() { "unknown" } else { &self.cpu })?;
        writeln!(f, "threads    {} workers on {} cores", self.threads, self.cores)?;
        writeln!(f, "cuda       {}", self.cuda)?;
        memory(&self.memory_bounds, f)?;
        match (self.flops, self.weight_bytes_per_second) {
            (Some(flops), Some(bytes)) => {
                let narrow = self
                    .flops_in_bf16
                    .map_or_else(String::new, |flops| format!(", {:.0} in bf16 (--dtype bf16)", flops / 1e9));
                let (flops, bytes) = (flops / 1e9, bytes / 1e9);
                writeln!(f, "products   {flops:.0} GFLOP/s in f32{narrow}; weights are read at {bytes:.1} GB/s")?;
            }
            _ => writeln!(f, "products   not measured: too little memory is free")?,
        }
        if let Some(here) = &self.here {
            writeln!(f, "disk       {}", disk(here))?;
        }
        if let Some(hub) = &self.hub {
            self::hub(hub, f)?;
        }
        for broken in &self.broken {
            writeln!(f, "BROKEN     {broken}")?;
        }
        Ok(())
    }
}

/// The machine, then every limit below it.
fn memory(bounds: &[Limit], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let least = bounds.iter().map(|bound| bound.free).min();
    let mut title = "memory";
    for Limit { by, total, free } in bounds {
        let of = if title.is_empty() { format!(" by {by}") } else { String::new() };
        let binds = if bounds.len() > 1 && Some(*free) == least { ", which binds" } else { "" };
        writeln!(f, "{title:<10} {} free of {}{of}{binds}", ByteSize(*free), ByteSize(*total))?;
        title = "";
    }
    Ok(())
}

fn disk(disk: &Disk) -> String {
    let free = disk.free.map_or_else(|| "unknown".to_owned(), |free| ByteSize(free).to_string());
    // shorter, and fit to be shown around
    let home = std::env::home_dir().filter(|home| home.parent().is_some());
    let below = home.and_then(|home| disk.path.strip_prefix(home).ok());
    let path = below.map_or_else(|| disk.path.display().to_string(), |below| format!("~/{}", below.display()));
    format!("{free} free in {path}")
}

fn hub(hub: &HubReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let token = if hub.has_token { "with a token" } else { "without a token" };
    let offline = if hub.offline { ", offline" } else { "" };
    writeln!(f, "hub        {}, {token}{offline}", hub.endpoint)?;
    for (name, value) in &hub.variables {
        writeln!(f, "           {name}={value}")?;
    }
    writeln!(f, "cache      {}", disk(&hub.cache))?;
    for Cached { id, is_model, bytes, missing } in &hub.cached {
        let kind = if *is_model { "" } else { "datasets/" };
        let state = missing.as_ref().map_or_else(String::new, |missing| format!(", {missing} is missing"));
        writeln!(f, "           {kind}{}, {}{state}", shown(id), ByteSize(*bytes))?;
    }
    Ok(())
}
