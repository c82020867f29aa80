//! Merges of a SentencePiece vocabulary: it has scores, and the tokenizers crate merges by rank.
//!
//! SentencePiece, and llama.cpp, merge the two neighbours whose joint piece has the best score, the first of equals.
//! Every way to part a piece in two becomes a merge, ordered by the scores (`generate_merges` of transformers).

use std::collections::HashMap;

/// Tokens with their scores; those that are no pieces of text are left out of the merges.
pub(super) fn merges(vocabulary: &HashMap<&str, usize>, pieces: &[(&str, f64)]) -> Vec<[String; 2]> {
    let mut all: Vec<(f64, [&str; 2])> = Vec::new();
    for (piece, score) in pieces {
        let mut parts: Vec<(usize, usize, [&str; 2])> = Vec::new();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(one), Some(other)) = (vocabulary.get(left), vocabulary.get(right)) {
                parts.push((*one, *other, [left, right]));
            }
        }
        parts.sort_by_key(|(one, other, _)| (*one, *other));
        all.extend(parts.into_iter().map(|(.., parts)| (*score, parts)));
    }
    let length = |text: &str| text.chars().count();
    // the best first; a stable sort keeps the order of the vocabulary among equals
    all.sort_by(|(one, a), (other, b)| {
        let lengths = |parts: &[&str; 2]| (length(parts[0]), length(parts[1]));
        other.total_cmp(one).then_with(|| lengths(b).cmp(&lengths(a)))
    });
    all.into_iter().map(|(_, parts)| parts.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_merges_first() {
        let pieces = [("a", 0.0), ("b", 0.0), ("c", 0.0), ("bc", -1.0), ("ab", -2.0), ("abc", -3.0)];
        let vocabulary = pieces.iter().enumerate().map(|(id, (piece, _))| (*piece, id)).collect();
        let merges = merges(&vocabulary, &pieces);
        let merges: Vec<String> = merges.iter().map(|parts| parts.join("+")).collect();
        assert_eq!(merges, ["b+c", "a+b", "ab+c", "a+bc"]);
    }
}
