//! Positions, as configs spell them: `rope_theta` with `rope_scaling` of old, `rope_parameters` since transformers 5.

use serde_json::Value;

use super::keys::Keys;
use super::table::Architecture;
use super::{Rope, RopeScaling};
use crate::{Error, Result};

/// Reads the positions of a config (`RotaryEmbeddingConfigMixin` and `modeling_rope_utils.py` of transformers 5.23):
/// those of all layers, and those of layers with a sliding window where the family has others there.
pub(super) fn read(
    keys: &Keys<'_>,
    row: &Architecture,
    head_dim: usize,
    max_positions: usize,
) -> Result<(Rope, Option<Rope>)> {
    let empty = serde_json::Map::new();
    let empty = Keys::new(&empty);
    let base = |object: &Keys<'_>, key: &str| object.number(key, "a number above 1", |theta| theta > 1.0);
    let of = |stretch: Keys<'_>, theta| one(keys, &stretch, row, (theta, head_dim, max_positions));
    let Some(sliding) = row.sliding_rope else {
        let given = parameters(keys)?;
        // a stretch of the family's own comes with its base
        let beside = if given.is_none() && row.rope_scaling.is_some() { None } else { base(keys, row.rope_keys.0)? };
        let stretch = given.unwrap_or(empty);
        let theta = base(&stretch, "rope_theta")?.or(beside);
        return Ok((of(stretch, theta.unwrap_or(row.rope_theta))?, None));
    };
    // by layer type; a stretch in the old spelling is that of layers without a window
    let by_type = match filled(keys, "rope_parameters")? {
        Some(object) if ["full_attention", "sliding_attention"].iter().all(|kind| object.get(kind).is_none()) => {
            return Err(Error::request("rope_parameters: expected full_attention and sliding_attention within"));
        }
        object => object.unwrap_or(empty),
    };
    let of_type = |kind| Ok::<_, Error>(by_type.object(kind)?.unwrap_or(empty));
    let (full, windowed) = (of_type("full_attention")?, of_type("sliding_attention")?);
    let stretch = filled(keys, "rope_scaling")?.unwrap_or(full);
    let theta = base(&stretch, "rope_theta")?.or(base(&full, "rope_theta")?).or(base(keys, "rope_theta")?);
    let beside = sliding.key.map(|key| base(keys, key)).transpose()?.flatten();
    let sliding_theta = base(&windowed, "rope_theta")?.or(beside).unwrap_or(sliding.theta);
    Ok((of(stretch, theta.unwrap_or(row.rope_theta))?, Some(of(windowed, sliding_theta)?)))
}

/// The rotations of one base and one stretch.
fn one(
    keys: &Keys<'_>,
    stretch: &Keys<'_>,
    row: &Architecture,
    (theta, head_dim, max_positions): (f64, usize, usize),
) -> Result<Rope> {
    let part = |keys: &Keys<'_>, key| keys.number(key, "a number above 0, at most 1", |part| part > 0.0 && part <= 1.0);
    let part = part(stretch, "partial_rotary_factor")?.or(part(keys, row.rope_keys.1)?);
    let rotary_dim = match (part, row.partial_rotary) {
        (part, Some(default)) => (head_dim as f64 * part.unwrap_or(default)) as usize,
        (None | Some(1.0), None) => head_dim,
        (Some(part), None) => {
            return Err(Error::request(format!(
                "partial_rotary_factor is {part}, but a {} block rotates whole heads",
                row.model_type
            )));
        }
    };
    if rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
        return Err(Error::work(format!(
            "head_dim is {head_dim}, of which {rotary_dim} would be rotated; expected an even number, 2 or more"
        )));
    }
    let kind = match stretch.text("rope_type")? {
        Some(kind) => kind,
        None => stretch.text("type")?.unwrap_or("default"),
    };
    let alpha = if row.ntk_alpha && kind == "dynamic" { stretch.positive("alpha")? } else { None };
    // a stretch of the base that does not hang on the length
    let ntk = |alpha: f64| theta * alpha.powf(rotary_dim as f64 / (rotary_dim as f64 - 2.0));
    let theta = alpha.filter(|_| rotary_dim > 2).map_or(theta, ntk);
    let scaling = match (kind, row.phi_positions) {
        ("dynamic", None) if alpha.is_some() => RopeScaling::None,
        ("default", _) if stretch.map().is_empty() => row.rope_scaling.cloned().unwrap_or(RopeScaling::None),
        ("default", _) => RopeScaling::None,
        ("longrope" | "su" | "yarn", Some(_)) | ("longrope", None) => {
            longrope(stretch, trained(keys, stretch, row, max_positions)?, rotary_dim, max_positions)?
        }
        ("linear", None) => RopeScaling::Linear { factor: factor(stretch)? },
        ("dynamic", None) if rotary_dim > 2 => RopeScaling::Dynamic { factor: factor(stretch)? },
        ("llama3", None) => llama3(stretch, trained(keys, stretch, row, max_positions)?)?,
        ("yarn", None) => yarn(stretch, trained(keys, stretch, row, max_positions)?, max_positions)?,
        (kind, _) => {
            let known = match row.phi_positions {
                Some(_) => "default and longrope",
                None => "default, linear, dynamic, llama3, yarn and longrope",
            };
            return Err(Error::request(format!(
                "{} is {kind:?}, for a {} model of head_dim {head_dim} known are {known}",
                stretch.name("rope_type"),
                row.model_type
            )));
        }
    };
    let interleaved = match row.latent.and_then(|rule| rule.interleave) {
        Some(key) => keys.flag(key)?.unwrap_or(row.interleaved),
        None => row.interleaved,
    };
    let rope = Rope { theta, rotary_dim, interleaved, scaling, max_positions };
    let usable = |longest| {
        let (frequencies, factor) = rope.inverse_frequencies(longest);
        frequencies.into_iter().all(f32::is_finite) && (factor as f32).is_normal() && factor > 0.0
    };
    if !usable(1) || !usable(u32::MAX as usize) {
        return Err(Error::work(format!(
            "the rotations of rope_theta {theta} and {scaling:?} are not finite",
            scaling = rope.scaling
        )));
    }
    Ok(rope)
}

/// What scores of latent attention are multiplied with besides where rotations are stretched (`yarn_apply_mscale` of
/// transformers' DeepSeek).
pub(super) fn score_factor(keys: &Keys<'_>) -> Result<f64> {
    let Some(stretch) = parameters(keys)? else { return Ok(1.0) };
    let kind = stretch.text("rope_type")?.or(stretch.text("type")?).unwrap_or("default");
    let all = stretch.number("mscale_all_dim", "a number", |_| true)?.filter(|all| *all != 0.0);
    match all {
        Some(all) if kind != "default" => Ok(mscale(factor(&stretch)?, all).powi(2)),
        _ => Ok(1.0),
    }
}

/// YaRN's factor on cosine and sine for a stretch by `factor`.
fn mscale(factor: f64, by: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
}

/// An object that says something.
fn filled<'a>(keys: &Keys<'a>, key: &'a str) -> Result<Option<Keys<'a>>> {
    Ok(keys.object(key)?.filter(|object| !object.map().is_empty()))
}

/// The object that holds the stretch. One per layer type counts as one where they all say the same.
fn parameters<'a>(keys: &Keys<'a>) -> Result<Option<Keys<'a>>> {
    let Some(object) = (match filled(keys, "rope_scaling")? {
        Some(object) => Some(object),
        None => filled(keys, "rope_parameters")?,
    }) else {
        return Ok(None);
    };
    let by_type = ["full_attention", "sliding_attention"].map(|kind| object.map().get(kind));
    let mut objects = by_type.into_iter().flatten();
    match (objects.next(), objects.next()) {
        (None, _) => Ok(Some(object)),
        (Some(Value::Object(only)), None) => Ok(Some(Keys::inside("rope_parameters", only))),
        (Some(Value::Object(one)), Some(Value::Object(other))) if one == other => {
            Ok(Some(Keys::inside("rope_parameters", one)))
        }
        _ => Err(Error::request("rope_parameters differ between layer types, which this block does not compute")),
    }
}

/// The trained context: beside the stretch first, as transformers has it, then within, then what the config promises.
fn trained(keys: &Keys<'_>, stretch: &Keys<'_>, row: &Architecture, max_positions: usize) -> Result<usize> {
    let key = "original_max_position_embeddings";
    let beside = keys.length(key)?.or(row.phi_positions);
    Ok(beside.or(stretch.length(key)?).unwrap_or(max_positions))
}

fn factor(stretch: &Keys<'_>) -> Result<f64> {
    stretch.needed("factor", stretch.positive("factor")?)
}

fn llama3(stretch: &Keys<'_>, original_max_positions: usize) -> Result<RopeScaling> {
    let needed = |key| stretch.needed(key, stretch.positive(key)?);
    let (low_freq_factor, high_freq_factor) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
    if high_freq_factor <= low_freq_factor {
        return Err(Error::work(format!(
            "{} is {high_freq_factor}, expected more than low_freq_factor, {low_freq_factor}",
            stretch.name("high_freq_factor")
        )));
    }
    Ok(RopeScaling::Llama3 { factor: factor(stretch)?, low_freq_factor, high_freq_factor, original_max_positions })
}

fn yarn(stretch: &Keys<'_>, original_max_positions: usize, max_positions: usize) -> Result<RopeScaling> {
    let factor = stretch.positive("factor")?.unwrap_or(max_positions as f64 / original_max_positions as f64);
    // zero counts as absent for these
    let optional = |key| Ok::<_, Error>(stretch.number(key, "a number", |_| true)?.filter(|number| *number != 0.0));
    let attention_factor = match (attention_factor(stretch)?, optional("mscale")?, optional("mscale_all_dim")?) {
        (Some(given), ..) => given,
        (None, Some(one), Some(all)) => mscale(factor, one) / mscale(factor, all),
        _ => mscale(factor, 1.0),
    };
    let rotations = |key, default| {
        Ok::<_, Error>(
            stretch.number(key, "a number, 0 or above", |n| n >= 0.0)?.filter(|n| *n > 0.0).unwrap_or(default),
        )
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: rotations("beta_fast", 32.0)?,
        beta_slow: rotations("beta_slow", 1.0)?,
        attention_factor,
        original_max_positions,
        truncate: stretch.flag("truncate")?.unwrap_or(true),
    })
}

fn longrope(
    stretch: &Keys<'_>,
    original_max_positions: usize,
    rotary_dim: usize,
    max_positions: usize,
) -> Result<RopeScaling> {
    let divisors = |key: &str| {
        let list = stretch.needed(key, stretch.list(key)?)?;
        let divisor = |value: &Value| match value.as_f64() {
            Some(divisor) if divisor.is_finite() && divisor > 0.0 => Ok(divisor),
            _ => Err(stretch.fault(key, value, "numbers above 0")),
        };
        if list.len() != rotary_dim / 2 {
            return Err(Error::work(format!(
                "{} has {} entries, expected {}, half of the rotated dimensions",
                stretch.name(key),
                list.len(),
                rotary_dim / 2
            )));
        }
        list.iter().map(divisor).collect::<Result<Vec<_>>>()
    };
    let factor = stretch.positive("factor")?.unwrap_or(max_positions as f64 / original_max_positions as f64);
    let attention_factor = match attention_factor(stretch)? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original_max_positions as f64).ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        attention_factor,
        original_max_positions,
    })
}

fn attention_factor(stretch: &Keys<'_>) -> Result<Option<f64>> {
    stretch.positive("attention_factor")
}
