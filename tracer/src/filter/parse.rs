//! From a text to a filter.

use super::{Compare, Field, FilterError, Node, Type, Wanted};

/// Longer texts are refused: nobody types them.
const LONGEST: usize = 4096;
/// Deeper nesting is refused, so that no text can exhaust the stack.
const DEEPEST: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A word, or text in quotes.
    Word(String),
    Compare(&'static str),
    And,
    Or,
    Not,
    Open,
    Close,
}

pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    if text.len() > LONGEST {
        return Err(error(0, format!("a filter has at most {LONGEST} bytes")));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        end: text.chars().count(),
        depth: 0,
    };
    if tokens.is_empty() {
        return Err(error(0, "a filter is missing, such as comm=post* or wait>1ms"));
    }
    let node = parser.any()?;
    match parser.peek() {
        None => Ok(node),
        Some(Token::Close) => Err(error(parser.place(), "nothing was opened that this could close")),
        Some(_) => Err(error(parser.place(), "not understood here")),
    }
}

fn error(at: usize, message: impl Into<String>) -> FilterError {
    FilterError {
        at,
        message: message.into(),
    }
}

/// The longer ones first.
const COMPARES: [&str; 8] = ["!=", "<=", ">=", "==", "=", "<", ">", "~"];

/// The words and signs of a text, with their places.
pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&char) = chars.get(at) {
        let start = at;
        let starts = |with: &str| {
            with.chars()
                .enumerate()
                .all(|(i, c)| chars.get(at + i) == Some(&c))
        };
        if char.is_whitespace() {
            at += 1;
            continue;
        }
        let token = if starts("&&") {
            at += 2;
            Token::And
        } else if starts("||") {
            at += 2;
            Token::Or
        } else if let Some(compare) = COMPARES.iter().find(|compare| starts(compare)) {
            at += compare.len();
            Token::Compare(if *compare == "==" { "=" } else { compare })
        } else if char == '!' {
            at += 1;
            Token::Not
        } else if char == '(' || char == ')' {
            at += 1;
            if char == '(' { Token::Open } else { Token::Close }
        } else if char == '"' {
            let end = chars[at + 1..].iter().position(|&c| c == '"');
            let Some(end) = end else {
                return Err(error(start, "this quotation mark is not closed"));
            };
            let word = chars[at + 1..at + 1 + end].iter().collect();
            at += end + 2;
            Token::Word(word)
        } else {
            while let Some(&char) = chars.get(at)
                && !char.is_whitespace()
                && !"()=<>!~&|\"".contains(char)
            {
                at += 1;
            }
            if at == start {
                return Err(error(
                    start,
                    format!("'{char}' means nothing by itself; there are && and ||"),
                ));
            }
            let word: String = chars[start..at].iter().collect();
            match word.as_str() {
                "and" => Token::And,
                "or" => Token::Or,
                "not" => Token::Not,
                _ => Token::Word(word),
            }
        };
        tokens.push((start, token));
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |(at, _)| *at)
    }

    fn any(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.all()?];
        while self.peek() == Some(&Token::Or) {
            self.at += 1;
            nodes.push(self.all()?);
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.not()?];
        loop {
            match self.peek() {
                Some(Token::And) => self.at += 1,
                // Two things side by side have to be both.
                Some(Token::Word(_) | Token::Not | Token::Open) => {}
                _ => return Ok(one_or(nodes, Node::All)),
            }
            nodes.push(self.not()?);
        }
    }

    fn not(&mut self) -> Result<Node, FilterError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(error(self.place(), format!("nested deeper than {DEEPEST}")));
        }
        let node = match self.peek() {
            Some(Token::Not) => {
                self.at += 1;
                Node::Not(Box::new(self.not()?))
            }
            Some(Token::Open) => {
                let opened = self.place();
                self.at += 1;
                let node = self.any()?;
                if self.peek() != Some(&Token::Close) {
                    return Err(error(opened, "this parenthesis is not closed"));
                }
                self.at += 1;
                node
            }
            Some(Token::Word(word)) => {
                let place = self.place();
                self.at += 1;
                self.term(word, place)?
            }
            Some(Token::Compare(compare)) => {
                return Err(error(
                    self.place(),
                    format!("a field is missing before {compare}"),
                ));
            }
            Some(Token::And | Token::Or | Token::Close) | None => {
                return Err(error(
                    self.place(),
                    "something is missing here, such as comm=post*",
                ));
            }
        };
        self.depth -= 1;
        Ok(node)
    }

    /// `field=value`, `field in range`, or a word by itself.
    fn term(&mut self, word: &str, place: usize) -> Result<Node, FilterError> {
        let within = matches!(self.peek(), Some(Token::Word(word)) if word == "in")
            && matches!(self.tokens.get(self.at + 1), Some((_, Token::Word(_))));
        let (compare, inverted) = match self.peek() {
            Some(Token::Compare(compare)) => match *compare {
                "=" => (Compare::Equal, false),
                "!=" => (Compare::Equal, true),
                "<" => (Compare::Less, false),
                "<=" => (Compare::LessOrEqual, false),
                ">" => (Compare::Greater, false),
                ">=" => (Compare::GreaterOrEqual, false),
                _ => (Compare::Contains, false),
            },
            Some(Token::Word(_)) if within => (Compare::Within, false),
            _ => return Ok(Node::Word(word.as_bytes().to_vec(), word.parse().ok())),
        };
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == word) else {
            let names: Vec<_> = Field::ALL.iter().map(|field| field.name()).collect();
            return Err(error(
                place,
                format!("no field is called {word}; there are {}", names.join(", ")),
            ));
        };
        self.at += 1;
        let value_place = self.place();
        let Some(Token::Word(value)) = self.peek() else {
            return Err(error(value_place, format!("a value is missing for {word}")));
        };
        self.at += 1;
        let node = is(field, compare, value).map_err(|message| error(value_place, message))?;
        Ok(if inverted { Node::Not(Box::new(node)) } else { node })
    }
}

fn one_or(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    match (nodes.len(), nodes.pop()) {
        (1, Some(node)) => node,
        (_, Some(last)) => {
            nodes.push(last);
            many(nodes)
        }
        (_, None) => many(nodes),
    }
}

fn is(field: Field, compare: Compare, value: &str) -> Result<Node, String> {
    let name = field.name();
    let ordered = matches!(
        compare,
        Compare::Less | Compare::LessOrEqual | Compare::Greater | Compare::GreaterOrEqual
    );
    let wanted = match field.value_type() {
        Type::Text | Type::Name(_) if ordered || compare == Compare::Within => {
            return Err(format!("{name} is a name: it can be =, != or ~ (contains)"));
        }
        Type::Text => Wanted::Text(value.as_bytes().to_vec()),
        Type::Name(names) => {
            let names = names();
            let pattern = compare == Compare::Contains || value.contains(['*', '?']);
            if !pattern && !names.contains(&value) {
                return Err(format!(
                    "no {name} is called {value}; there are {}",
                    names.join(", ")
                ));
            }
            Wanted::Text(value.as_bytes().to_vec())
        }
        _ if compare == Compare::Contains => return Err(format!("{name} is a number, ~ is for names")),
        Type::Number if compare == Compare::Within => {
            let (low, high) = value
                .split_once("..")
                .or_else(|| value.split_once('-'))
                .ok_or_else(|| format!("{name} in LOW-HIGH"))?;
            Wanted::Range(number(low)?, number(high)?.saturating_add(1))
        }
        Type::Number => Wanted::Number(number(value)?),
        Type::Duration if compare == Compare::Within => {
            return Err(format!("{name} can be compared with <, <=, >, >=, = and !="));
        }
        Type::Duration => Wanted::Number(duration(value)?),
        Type::Address if ordered => {
            return Err(format!("{name} is a place: {name}=ADDRESS or {name} in LOW-HIGH"));
        }
        Type::Address => match value.split_once("..").or_else(|| value.split_once('-')) {
            Some((low, high)) => {
                let (low, high) = (address(low)?, address(high)?);
                if low >= high {
                    return Err(format!("the range {value} is empty"));
                }
                Wanted::Range(low, high)
            }
            None if compare == Compare::Within => return Err(format!("{name} in LOW-HIGH")),
            None => Wanted::Number(address(value)?),
        },
    };
    Ok(Node::Is(field, compare, wanted))
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text} is no number"))
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text} is no hexadecimal address"))
}

/// A time with its unit, in nanoseconds.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    let wrong = || format!("{text} is no time; say for example 1ms, with ns, us, ms, s, m or h");
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut ns = whole.checked_mul(factor).ok_or_else(wrong)?;
    let mut weight = factor;
    for digit in part.chars() {
        weight /= 10;
        let digit = digit.to_digit(10).ok_or_else(wrong)?;
        ns = ns.checked_add(u64::from(digit) * weight).ok_or_else(wrong)?;
    }
    Ok(ns)
}
