//! Random commands from templates.

use std::time::{SystemTime, UNIX_EPOCH};

const TEMPLATES: &str = include_str!("commands.txt");

/// One of so many arguments is replaced by something odd, left out or doubled.
const ODD_ONE_IN: usize = 150;

const ODD: &[&str] = &[
    "",
    "abc",
    "-1",
    "0",
    "1.5",
    "-0",
    "01",
    "nan",
    "inf",
    "(1",
    "[a",
    "*",
    "99999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "LIMIT",
    "WITHSCORES",
    "COUNT",
    "NX",
    "a b\r\nc",
    "s1",
    "h1",
    "l1",
    "e1",
    "z1",
];

pub struct Generator {
    templates: Vec<Vec<&'static str>>,
    random: fastrand::Rng,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        let lines = TEMPLATES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { templates: lines.map(tokens).collect(), random: fastrand::Rng::with_seed(seed) }
    }

    pub fn next(&mut self) -> Vec<Vec<u8>> {
        let template = self.random.usize(..self.templates.len());
        let tokens = self.templates[template].clone();
        let mut argv = Vec::new();
        self.expand(&tokens, &mut argv);
        if !tokens.contains(&"$w") && tokens[0] != "SPOP" {
            self.make_odd(&mut argv);
        }
        argv
    }

    fn make_odd(&mut self, argv: &mut Vec<Vec<u8>>) {
        let mut index = 1;
        while index < argv.len() {
            if self.random.usize(..ODD_ONE_IN) == 0 {
                match self.random.u8(..4) {
                    0 => _ = argv.remove(index),
                    1 => argv.insert(index, argv[index].clone()),
                    _ => argv[index] = ODD[self.random.usize(..ODD.len())].as_bytes().to_vec(),
                }
            }
            index += 1;
        }
    }

    fn expand(&mut self, tokens: &[&str], argv: &mut Vec<Vec<u8>>) {
        let mut index = 0;
        while index < tokens.len() {
            let token = tokens[index];
            if !["[", "(", "{"].contains(&token) {
                argv.push(self.word(token).into_bytes());
                index += 1;
                continue;
            }
            let end = index + closing(&tokens[index..]);
            let inner = &tokens[index + 1..end];
            match token {
                "[" if self.random.bool() => {}
                "[" => self.expand(inner, argv),
                "{" => (0..self.random.usize(1..=4)).for_each(|_| self.expand(inner, argv)),
                _ => {
                    let choices: Vec<_> = inner.split(|token| *token == "|").collect();
                    let choice = self.random.usize(..choices.len());
                    self.expand(choices[choice], argv);
                }
            }
            index = end + 1;
        }
    }

    fn word(&mut self, token: &str) -> String {
        if let Some(inner) = token.strip_prefix("${") {
            let (kind, rest) = inner.split_once('}').expect("a placeholder ends with a brace");
            return self.value(kind) + rest;
        }
        match token.strip_prefix('$') {
            Some(kind) => self.value(kind),
            None => token.into(),
        }
    }

    fn value(&mut self, kind: &str) -> String {
        let random = &mut self.random;
        let half = |random: &mut fastrand::Rng| f64::from(random.i32(-20..20)) / 2.0;
        match kind {
            "s" | "h" | "l" | "e" | "z" | "k" => {
                let other = kind == "k" || random.usize(..30) == 0;
                let kind = if other { ["s", "h", "l", "e", "z"][random.usize(..5)] } else { kind };
                format!("{kind}{}", random.u8(1..=4))
            }
            "c" => format!("c{}", random.u8(1..=2)),
            "w" => format!("w{}", random.u8(1..=2)),
            "f" => [
                "a",
                "b",
                "c",
                "d",
                "aa",
                "ab",
                "",
                "1",
                "2",
                "é",
                "long member of more than sixty-four bytes, so that a listpack is too small",
            ][skewed(random, 11)]
            .into(),
            "v" => {
                ["x", "y", "", "10", "-7", "3.5", "hello world", "\u{0}\r\n", "9223372036854775807", "a", "b"]
                    [random.usize(..11)]
                .into()
            }
            "i" => random.i32(-6..12).to_string(),
            "n" => random.u8(..6).to_string(),
            "x" => match random.u8(..20) {
                0 => "inf".into(),
                1 => "-inf".into(),
                _ => half(random).to_string(),
            },
            "d" => ["0.1", "-0.2", "0.5", "1.50", "-2.0e0", "-1e-1", "-.25", "0"][random.usize(..8)].into(),
            "t" => random.u32(10_000..10_000_000).to_string(),
            "T" => (now() / 1000 + random.u64(10_000..10_000_000)).to_string(),
            "b" => match random.u8(..8) {
                0 => "-inf".into(),
                1 => "+inf".into(),
                2 | 3 => format!("({}", half(random)),
                _ => half(random).to_string(),
            },
            "y" => ["-", "+", "[a", "(a", "[b", "(aa", "[", "(c", "[d"][random.usize(..9)].into(),
            "p" => ["*", "?1", "s*", "[hl]?", "[^s]*", "*2", "a*", "\\a", "?", "[a-c]"][random.usize(..10)]
                .into(),
            other => panic!("no such placeholder: ${other}"),
        }
    }
}

/// A position below `len`, the first ones more often.
fn skewed(random: &mut fastrand::Rng, len: usize) -> usize {
    random.usize(..len).min(random.usize(..len))
}

fn tokens(line: &'static str) -> Vec<&'static str> {
    let mut tokens = Vec::new();
    for word in line.split_whitespace() {
        let open = word.len() - word.trim_start_matches('(').len();
        let close = word.trim_end_matches(')').len();
        tokens.extend((0..open).map(|_| "("));
        tokens.extend(Some(&word[open..close.max(open)]).filter(|word| !word.is_empty()));
        tokens.extend((close..word.len()).map(|_| ")"));
    }
    tokens
}

/// Index of the token that closes the first one.
fn closing(tokens: &[&str]) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "[" | "(" | "{" => depth += 1,
            "]" | ")" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    panic!("a group without an end: {tokens:?}");
}

/// Unix time in milliseconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}
