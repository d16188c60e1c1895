//! Random commands from templates.

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

/// Arguments that are likely to be where they do not belong.
pub const ANY: &[&str] = &[
    "a",
    "b",
    "c",
    "",
    "0",
    "1",
    "-1",
    "2",
    "3",
    "-2",
    "1.5",
    "inf",
    "-inf",
    "nan",
    "(1",
    "[a",
    "-",
    "+",
    "*",
    "1e308",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967296",
    "18446744073709551615",
    "LIMIT",
    "COUNT",
    "BYSCORE",
    "BYLEX",
    "REV",
    "WITHSCORES",
    "WEIGHTS",
    "AGGREGATE",
    "INCR",
    "NX",
    "XX",
    "GT",
    "EX",
    "PXAT",
    "LEFT",
    "RIGHT",
    "MIN",
    "RANK",
    "MAXLEN",
    "MATCH",
    "encoding",
];

/// What a generator draws from: chance, or the bytes of a fuzzer.
pub trait Source {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize;

    /// A number from `from` on and below `end`.
    fn within(&mut self, from: i64, end: i64) -> i64 {
        from + self.below((end - from) as usize) as i64
    }

    /// One of these.
    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

impl Source for fastrand::Rng {
    fn below(&mut self, end: usize) -> usize {
        self.usize(..end)
    }
}

pub struct Generator<S> {
    templates: Vec<Vec<&'static str>>,
    pub source: S,
    /// Unix time in milliseconds.
    now: u64,
}

impl<S: Source> Generator<S> {
    pub fn new(source: S) -> Self {
        let lines = TEMPLATES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { templates: lines.map(tokens).collect(), source, now: 0 }
    }

    pub fn next(&mut self, now: u64) -> Vec<Vec<u8>> {
        self.now = now;
        let template = self.source.below(self.templates.len());
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
            if self.source.below(ODD_ONE_IN) == ODD_ONE_IN - 1 {
                match self.source.below(4) {
                    0 => _ = argv.remove(index),
                    1 => argv.insert(index, argv[index].clone()),
                    _ => argv[index] = self.source.pick(ODD).into(),
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
                "[" if self.source.below(2) == 0 => {}
                "[" => self.expand(inner, argv),
                "{" => (0..self.source.within(1, 5)).for_each(|_| self.expand(inner, argv)),
                _ => {
                    let choices: Vec<_> = inner.split(|token| *token == "|").collect();
                    let choice = self.source.pick(&choices);
                    self.expand(choice, argv);
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

    /// What a placeholder of the templates stands for.
    pub fn value(&mut self, kind: &str) -> String {
        let source = &mut self.source;
        let half = |source: &mut S| source.within(-20, 20) as f64 / 2.0;
        match kind {
            "s" | "h" | "l" | "e" | "z" | "k" => {
                let other = kind == "k" || source.below(30) == 29;
                let kind = if other { source.pick(&["s", "h", "l", "e", "z"]) } else { kind };
                format!("{kind}{}", source.within(1, 5))
            }
            "c" => format!("c{}", source.within(1, 3)),
            "w" => format!("w{}", source.within(1, 3)),
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
            ][skewed(source, 11)]
            .into(),
            "v" => source
                .pick(&[
                    "x",
                    "y",
                    "",
                    "10",
                    "-7",
                    "3.5",
                    "hello world",
                    "\u{0}\r\n",
                    "9223372036854775807",
                    "a",
                    "b",
                ])
                .into(),
            "i" => source.within(-6, 12).to_string(),
            "n" => source.below(6).to_string(),
            "x" => match source.below(20) {
                0 => "inf".into(),
                1 => "-inf".into(),
                _ => half(source).to_string(),
            },
            "d" => source.pick(&["0.1", "-0.2", "0.5", "1.50", "-2.0e0", "-1e-1", "-.25", "0"]).into(),
            "t" => source.within(10_000, 10_000_000).to_string(),
            "T" => (self.now as i64 / 1000 + source.within(10_000, 10_000_000)).to_string(),
            "b" => match source.below(8) {
                0 => "-inf".into(),
                1 => "+inf".into(),
                2 | 3 => format!("({}", half(source)),
                _ => half(source).to_string(),
            },
            "y" => source.pick(&["-", "+", "[a", "(a", "[b", "(aa", "[", "(c", "[d"]).into(),
            "p" => source.pick(&["*", "?1", "s*", "[hl]?", "[^s]*", "*2", "a*", "\\a", "?", "[a-c]"]).into(),
            other => panic!("no such placeholder: ${other}"),
        }
    }
}

/// A position below `len`, the first ones more often.
fn skewed(source: &mut impl Source, len: usize) -> usize {
    source.below(len).min(source.below(len))
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
