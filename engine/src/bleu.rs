//! BLEU of a corpus (Papineni et al. 2002), with the numbers of sacrebleu (Post 2018): four orders, exponential smoothing,
//! tokenisation "none" or "13a", one reference a sentence.

use std::collections::HashMap;

use compress_core::bleu::Counts;
use compress_core::recipe::Tokenize;

/// BLEU in percent of hypotheses against one reference each.
pub fn corpus_bleu(hypotheses: &[String], references: &[String], tokenize: Tokenize) -> f64 {
    let all: Vec<Counts> = hypotheses.iter().zip(references).map(|(h, r)| counts(h, r, tokenize)).collect();
    Counts::sum(&all).score()
}

/// The n-grams of a sentence and those that its reference has too.
pub fn counts(hypothesis: &str, reference: &str, tokenize: Tokenize) -> Counts {
    let (h, r) = (cut(hypothesis, tokenize), cut(reference, tokenize));
    let (h, r): (Vec<&str>, Vec<&str>) = (h.split_whitespace().collect(), r.split_whitespace().collect());
    let mut counts = Counts { hypothesis: h.len() as u64, reference: r.len() as u64, ..Counts::default() };
    for n in 1..=4 {
        let mut expected: HashMap<&[&str], u64> = HashMap::new();
        for gram in r.windows(n) {
            *expected.entry(gram).or_default() += 1;
        }
        for gram in h.windows(n) {
            counts.total[n - 1] += 1;
            if let Some(left) = expected.get_mut(gram).filter(|left| **left > 0) {
                *left -= 1;
                counts.correct[n - 1] += 1;
            }
        }
    }
    counts
}

fn cut(line: &str, tokenize: Tokenize) -> String {
    match tokenize {
        Tokenize::None => line.to_string(),
        Tokenize::Mteval13a => tokenize_13a(line),
    }
}

/// The rules of mteval-v13a.pl, one after the other.
fn tokenize_13a(line: &str) -> String {
    let line = line.replace("<skipped>", "");
    let line = line.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let is_symbol = |c: char| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    let mut spaced = String::from(" ");
    for c in line.chars() {
        if is_symbol(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    spaced.push(' ');
    let stop = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    // a stop unless a digit comes before it; a stop unless a digit follows; a dash behind a digit
    let s = pairs(&spaced, |a, b| !digit(a) && stop(b), |a, b, out| out.extend([a, ' ', b, ' ']));
    let s = pairs(&s, |a, b| stop(a) && !digit(b), |a, b, out| out.extend([' ', a, ' ', b]));
    pairs(&s, |a, b| digit(a) && b == '-', |a, b, out| out.extend([a, ' ', b, ' ']))
}

/// Replaces pairs of neighbours that match, from left to right, without overlap.
fn pairs(s: &str, matches: impl Fn(char, char) -> bool, replace: impl Fn(char, char, &mut String)) -> String {
    let chars: Vec<char> = s.chars().collect();
    let mut out = String::with_capacity(s.len() + 16);
    let mut i = 0;
    while i < chars.len() {
        match chars.get(i + 1) {
            Some(&b) if matches(chars[i], b) => {
                replace(chars[i], b, &mut out);
                i += 2;
            }
            _ => {
                out.push(chars[i]);
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    /// Numbers by sacrebleu 2.6.0.
    #[test]
    fn scores_of_sacrebleu() {
        let hyp = lines(&["the cat sat on the mat .", "a dog , 1.5 m tall , runs (fast) at 3-4 km/h."]);
        let reference = lines(&["the cat is on the mat .", "a dog , 1.5 m high , runs (fast) at 3-4 km/h ."]);
        let none = corpus_bleu(&hyp, &reference, Tokenize::None);
        let mteval = corpus_bleu(&hyp, &reference, Tokenize::Mteval13a);
        assert_eq!((format!("{none:.4}"), format!("{mteval:.4}")), (NONE.into(), MTEVAL.into()));
        assert_eq!(corpus_bleu(&lines(&["x y"]), &lines(&["a b"]), Tokenize::None), 0.0);
    }
    const NONE: &str = "56.0626";
    const MTEVAL: &str = "77.6545";
}
