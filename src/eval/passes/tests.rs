//! Passes hold what was asked, however its beginnings nest.
#![allow(clippy::single_range_in_vec_init, reason = "groups of requests are ranges, and one group is a list too")]

use super::*;

fn request(input: &[u32], from: usize, targets: &[u32]) -> TokenRequest {
    TokenRequest { input: Arc::from(input), from, targets: ScoredTargets::Sequence(targets.to_vec()) }
}

fn fixed(tokens: usize) -> PassTokens {
    PassTokens { usual: tokens, most: tokens }
}

/// Reads every request's input and targets back out of the passes.
fn check(requests: &[TokenRequest], passes: &[Pass]) {
    let mut found = vec![Vec::new(); requests.len()];
    for pass in passes {
        let segments = pass.batch.layout.segments();
        assert_eq!(pass.batch.layout.tokens(), pass.batch.ids.len());
        for want in &pass.wants {
            let flat = pass.rows[want.row] as usize;
            let index = segments.iter().position(|s| (s.start..s.start + s.len).contains(&flat)).unwrap();
            let prefix = pass.batch.layout.prefix(index).into_iter().flatten().chain(segments[index].start..=flat);
            let seen: Vec<u32> = prefix.map(|token| pass.batch.ids[token]).collect();
            found[want.request].push((seen, pass.candidates[want.row][want.candidate]));
        }
    }
    for (request, found) in requests.iter().zip(found) {
        let (tokens, step) = request.targets.scored();
        let expected: Vec<_> = tokens
            .iter()
            .enumerate()
            .map(|(place, token)| (request.input[..=request.from + place * step].to_vec(), *token))
            .collect();
        assert_eq!(found, expected);
    }
}

fn tokens(passes: &[Pass]) -> usize {
    passes.iter().map(|pass| pass.batch.tokens()).sum()
}

#[test]
fn one_token_choices_are_one_sequence() {
    let context: Vec<u32> = (0..20).collect();
    let requests: Vec<TokenRequest> = (50..54).map(|answer| request(&context, 19, &[answer])).collect();
    let passes = plan(&requests, &[0..4], fixed(1000)).unwrap();
    check(&requests, &passes);
    assert_eq!((passes.len(), tokens(&passes), passes[0].rows.len()), (1, 20, 1));
    assert_eq!(passes[0].candidates, [[50, 51, 52, 53]]);
}

#[test]
fn shared_examples_are_run_once_a_pass() {
    let shots: Vec<u32> = (0..100).collect();
    let mut requests = Vec::new();
    for question in 0..10u32 {
        let mut input = shots.clone();
        input.extend((0..10).map(|token| 200 + question * 10 + token));
        for answer in [7, 8] {
            requests.push(request(&input, 109, &[answer]));
        }
    }
    let whole = plan(&requests, &[0..20], fixed(1000)).unwrap();
    check(&requests, &whole);
    assert_eq!(tokens(&whole), 200);
    let cut = plan(&requests, &[0..20], fixed(150)).unwrap();
    check(&requests, &cut);
    assert_eq!((cut.len(), tokens(&cut)), (2, 300));
    let single = plan(&requests, &[0..20], fixed(1)).unwrap();
    check(&requests, &single);
    assert_eq!(single.len(), 10);
    // what is shared is long, so a pass may be longer than usual: one question in it would be a waste
    let long = plan(&requests, &[0..20], PassTokens { usual: 110, most: 160 }).unwrap();
    check(&requests, &long);
    assert_eq!((long.len(), tokens(&long)), (2, 300));
}

#[test]
fn trees_of_any_shape() {
    // a fixed pseudo-random walk: many sequences that share prefixes of every length, some of them whole
    let mut state = 7u32;
    let mut next = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let mut requests: Vec<TokenRequest> = Vec::new();
    for _ in 0..200 {
        let mut input = match requests.len() {
            0 => Vec::new(),
            n => {
                let from = &requests[next(n as u32) as usize].input;
                from[..next(from.len() as u32 + 1) as usize].to_vec()
            }
        };
        for _ in 0..=next(25) {
            input.push(next(3));
        }
        let from = next(input.len() as u32) as usize;
        let many = input.len() - from;
        let targets: Vec<u32> = (0..many).map(|_| next(50)).collect();
        if next(4) == 0 {
            requests.push(TokenRequest { input: input.into(), from, targets: ScoredTargets::AnyOf(targets) });
        } else {
            requests.push(request(&input, from, &targets));
        }
    }
    let sum: usize = requests.iter().map(|request| request.input.len()).sum();
    for budget in [1, 40, 300, 100_000] {
        let passes = plan(&requests, &[0..90, 90..200], fixed(budget)).unwrap();
        check(&requests, &passes);
        let answered: usize = passes.iter().map(|pass| pass.requests.len()).sum();
        assert_eq!(answered, requests.len());
        assert!(tokens(&passes) <= sum);
    }
}

#[test]
fn every_prefix_of_a_long_text_is_asked_about() {
    // on a small stack: what nests is not what recurs
    let work = || {
        let text: Vec<u32> = (0..LEAST_SHARED as u32 * 5000).collect();
        let ends = (1..=5000).map(|end| end * LEAST_SHARED);
        let requests: Vec<TokenRequest> = ends.map(|end| request(&text[..end], end - 1, &[7])).collect();
        let passes = plan(&requests, &[0..requests.len()], fixed(usize::MAX)).unwrap();
        assert_eq!((passes.len(), tokens(&passes), passes[0].rows.len()), (1, text.len(), 5000));
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap().join().unwrap();
}

#[test]
fn empty_requests_are_refused() {
    assert!(plan(&[request(&[], 0, &[1])], &[0..1], fixed(10)).is_err());
    assert!(plan(&[request(&[1], 3, &[1])], &[0..1], fixed(10)).is_err());
}
