//! Tokens to [`File`]: the grammar, with no meaning yet. Nothing here recurses deeper than an operand in a list.

use crate::syntax::{Entry, File, Instruction, Number, Operand, Space, Statement, Ty, Variable};
use crate::token::{Located, Token, tokens};

/// A line and what is wrong there.
pub(crate) type Wrong = (u32, String);
type Parsed<T> = Result<T, Wrong>;

struct Parser<'a> {
    tokens: Vec<Located<'a>>,
    at: usize,
}

/// Reads a whole PTX file.
pub(crate) fn parse(text: &str) -> Parsed<File<'_>> {
    let mut p = Parser { tokens: tokens(text)?, at: 0 };
    let mut file = File::default();
    let mut version = false;
    while let Some(token) = p.peek() {
        let line = p.line();
        match token {
            Token::Word(".version") => {
                p.at += 1;
                p.word("a version")?;
                version = true;
            }
            Token::Word(".target") => {
                p.at += 1;
                file.target = p.word("a target")?.to_owned();
                while p.accept(',') {
                    p.word("a target")?;
                }
            }
            Token::Word(".address_size") => {
                p.at += 1;
                let size = p.word("32 or 64")?;
                if size != "64" {
                    return Err((line, format!("address size {size}: only 64 is emulated")));
                }
            }
            Token::Word(".file" | ".loc") => p.skip_line(),
            Token::Word(".pragma") => p.skip_statement()?,
            Token::Word(".section") => {
                while p.peek().is_some_and(|t| t != Token::Mark('{')) {
                    p.at += 1;
                }
                p.skip_braces()?;
            }
            Token::Word(w) if w.starts_with('.') => p.item(&mut file)?,
            other => return Err((line, format!("a directive was expected, not {}", show(other)))),
        }
    }
    if !version {
        return Err((1, "no .version: this is not PTX".into()));
    }
    Ok(file)
}

fn show(token: Token<'_>) -> String {
    match token {
        Token::Word(w) => format!("`{}`", clip(w)),
        Token::Text(t) => format!("\"{}\"", clip(t)),
        Token::Mark(c) => format!("`{c}`"),
    }
}

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(60)]
}

fn space(word: &str) -> Option<Space> {
    Some(match word {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.0)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.1)
    }

    fn wrong<T>(&self, expected: &str) -> Parsed<T> {
        let found = self.peek().map_or("the end of the text".to_owned(), show);
        Err((self.line(), format!("{expected} was expected, not {found}")))
    }

    fn accept(&mut self, mark: char) -> bool {
        let yes = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, mark: char) -> Parsed<()> {
        if self.accept(mark) { Ok(()) } else { self.wrong(&format!("`{mark}`")) }
    }

    fn word(&mut self, what: &str) -> Parsed<&'a str> {
        match self.peek() {
            Some(Token::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.wrong(what),
        }
    }

    fn count(&mut self, what: &str) -> Parsed<u64> {
        let line = self.line();
        let word = self.word(what)?;
        match number(word) {
            Some(Number::Integer(n)) => Ok(n),
            _ => Err((line, format!("{what} was expected, not `{}`", clip(word)))),
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.tokens.get(self.at).is_some_and(|t| t.1 == line) {
            self.at += 1;
        }
    }

    fn skip_statement(&mut self) -> Parsed<()> {
        while !self.accept(';') {
            if self.peek().is_none() {
                return self.wrong("`;`");
            }
            self.at += 1;
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Parsed<()> {
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(Token::Mark('{')) => depth += 1,
                Some(Token::Mark('}')) => depth -= 1,
                None => return self.wrong("`}`"),
                _ => {}
            }
            self.at += 1;
            if depth <= 0 {
                return Ok(());
            }
        }
    }

    /// A kernel, a function or a variable of the module.
    fn item(&mut self, file: &mut File<'a>) -> Parsed<()> {
        let mut external = false;
        while let Some(Token::Word(w)) = self.peek() {
            match w {
                ".extern" => external = true,
                ".visible" | ".weak" | ".common" => {}
                _ => break,
            }
            self.at += 1;
        }
        match self.peek() {
            Some(Token::Word(".entry")) => {
                self.at += 1;
                let entry = self.entry()?;
                file.entries.push(entry);
            }
            Some(Token::Word(".func")) => {
                // A call is refused by name, so that a function's body is not needed.
                while !matches!(self.peek(), Some(Token::Mark('{' | ';'))) {
                    if self.peek().is_none() {
                        return self.wrong("a function's body or `;`");
                    }
                    self.at += 1;
                }
                if !self.accept(';') {
                    self.skip_braces()?;
                }
            }
            Some(Token::Word(w)) if space(w).is_some() => {
                self.variables(external, &mut |v| file.variables.push(v))?;
            }
            Some(Token::Word(".alias" | ".pragma")) => self.skip_statement()?,
            _ => return self.wrong("a kernel, function or variable"),
        }
        Ok(())
    }

    fn entry(&mut self) -> Parsed<Entry<'a>> {
        let line = self.line();
        let name = self.word("a kernel's name")?;
        let mut params = Vec::new();
        if self.accept('(') && !self.accept(')') {
            loop {
                params.push(self.declarator(false)?);
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        let mut limits = Vec::new();
        while let Some(Token::Word(directive)) = self.peek() {
            if !directive.starts_with('.') {
                return self.wrong("`{`");
            }
            self.at += 1;
            if directive == ".pragma" {
                self.skip_statement()?;
                continue;
            }
            let mut numbers = Vec::new();
            while matches!(self.peek(), Some(Token::Word(w)) if !w.starts_with('.')) {
                numbers.push(self.count("a number")?.min(u32::MAX as u64) as u32);
                if !self.accept(',') {
                    break;
                }
            }
            limits.push((directive, numbers));
        }
        self.expect('{')?;
        let mut body = Vec::new();
        let mut depth = 0;
        loop {
            if self.accept('{') {
                depth += 1;
                body.push(Statement::Open);
            } else if self.accept('}') {
                if depth == 0 {
                    break;
                }
                depth -= 1;
                body.push(Statement::Close);
            } else {
                self.statement(&mut body)?;
            }
        }
        Ok(Entry { line, name, params, limits, body })
    }

    fn statement(&mut self, body: &mut Vec<Statement<'a>>) -> Parsed<()> {
        let line = self.line();
        if self.accept(';') {
            return Ok(());
        }
        let guard = if self.accept('@') {
            let negated = self.accept('!');
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let word = self.word("an instruction, a label or a declaration")?;
        if guard.is_none() {
            if self.accept(':') {
                if let Some(Token::Word(".branchtargets")) = self.peek() {
                    self.at += 1;
                    let mut targets = Vec::new();
                    loop {
                        targets.push(self.word("a label")?);
                        if !self.accept(',') {
                            break;
                        }
                    }
                    self.expect(';')?;
                    body.push(Statement::Targets(word, targets));
                } else if let Some(Token::Word(".callprototype" | ".calltargets")) = self.peek() {
                    self.skip_statement()?;
                } else {
                    body.push(Statement::Label(word, line));
                }
                return Ok(());
            }
            match word {
                ".reg" => return self.registers(body),
                ".loc" | ".file" => {
                    self.at -= 1;
                    self.skip_line();
                    return Ok(());
                }
                ".pragma" => return self.skip_statement(),
                w if space(w).is_some() || w == ".extern" => {
                    self.at -= usize::from(w != ".extern");
                    return self
                        .variables(w == ".extern", &mut |v| body.push(Statement::Variable(v)));
                }
                w if w.starts_with('.') => {
                    return Err((line, format!("directive `{}` is not known", clip(w))));
                }
                _ => {}
            }
        }
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                operands.push(self.operand(0)?);
                if !self.accept(',') {
                    break;
                }
            }
            self.expect(';')?;
        }
        body.push(Statement::Instruction(Instruction { line, guard, opcode: word, operands }));
        Ok(())
    }

    fn registers(&mut self, body: &mut Vec<Statement<'a>>) -> Parsed<()> {
        let ty = self.ty()?;
        let mut names = Vec::new();
        loop {
            let name = self.word("a register's name")?;
            let count = if self.accept('<') {
                let n = self.count("a number of registers")?;
                self.expect('>')?;
                Some(n.min(u32::MAX as u64) as u32)
            } else {
                None
            };
            names.push((name, count));
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        body.push(Statement::Registers(ty, names));
        Ok(())
    }

    fn ty(&mut self) -> Parsed<Ty> {
        let line = self.line();
        let word = self.word("a type")?;
        word.strip_prefix('.')
            .and_then(Ty::parse)
            .ok_or_else(|| (line, format!("a type was expected, not `{}`", clip(word))))
    }

    fn variables(&mut self, external: bool, out: &mut dyn FnMut(Variable<'a>)) -> Parsed<()> {
        let first = self.declarator(external)?;
        let like = (first.space, first.ty, first.align);
        out(first);
        while self.accept(',') {
            let next = self.declared(external, like.0, like.1, like.2)?;
            out(next);
        }
        self.expect(';')
    }

    /// Space, alignment, type, then name, extent and initial value.
    fn declarator(&mut self, external: bool) -> Parsed<Variable<'a>> {
        let line = self.line();
        let word = self.word("a state space")?;
        let Some(space) = space(word) else {
            return Err((line, format!("a state space was expected, not `{}`", clip(word))));
        };
        let (mut align, mut ty, mut width) = (0, None, 1);
        while let Some(Token::Word(w)) = self.peek() {
            if !w.starts_with('.') {
                break;
            }
            let line = self.line();
            self.at += 1;
            match w {
                ".align" => {
                    let value = self.count("an alignment")?;
                    // After `.ptr` it is the alignment of what the pointer points to.
                    if ty.is_none() {
                        align = value;
                    }
                    if !value.is_power_of_two() || value > 1 << 16 {
                        return Err((line, format!("alignment {value}")));
                    }
                }
                ".v2" => width = 2,
                ".v4" => width = 4,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".attribute" => {}
                _ => match Ty::parse(&w[1..]) {
                    Some(t) => ty = Some(t),
                    None => return Err((line, format!("`{}` in a declaration", clip(w)))),
                },
            }
            if w == ".attribute" {
                self.expect('(')?;
                while !self.accept(')') {
                    if self.peek().is_none() {
                        return self.wrong("`)`");
                    }
                    self.at += 1;
                }
            }
        }
        let Some(ty) = ty.filter(|t| *t != Ty::Pred) else { return self.wrong("a type") };
        let align = if align == 0 { ty.bytes() * width } else { align };
        let mut v = self.declared(external, space, ty, align)?;
        v.bytes = v.bytes.saturating_mul(width);
        Ok(v)
    }

    fn declared(
        &mut self,
        external: bool,
        space: Space,
        ty: Ty,
        align: u64,
    ) -> Parsed<Variable<'a>> {
        let line = self.line();
        let name = self.word("a name")?;
        let mut bytes = ty.bytes();
        let mut unsized_array = false;
        while self.accept('[') {
            if self.accept(']') {
                unsized_array = true;
                continue;
            }
            bytes = bytes.saturating_mul(self.count("an extent")?);
            self.expect(']')?;
        }
        let mut initial = Vec::new();
        if self.accept('=') {
            self.initial(&mut initial)?;
        }
        if unsized_array {
            bytes = ty.bytes() * initial.len() as u64;
        }
        Ok(Variable { line, name, space, ty, align, bytes, external, initial })
    }

    fn initial(&mut self, out: &mut Vec<Number>) -> Parsed<()> {
        let mut depth = 0;
        loop {
            let line = self.line();
            if self.accept('{') {
                depth += 1;
            } else if self.accept('}') {
                depth -= 1;
            } else if depth > 0 && self.accept(',') {
            } else {
                let negative = self.accept('-');
                let word = self.word("an initial value")?;
                let Some(n) = number(word) else {
                    return Err((
                        line,
                        format!("initial value `{}`: only numbers are emulated", clip(word)),
                    ));
                };
                out.push(if negative { negate(n) } else { n });
            }
            if depth <= 0 {
                return Ok(());
            }
        }
    }

    fn operand(&mut self, depth: u32) -> Parsed<Operand<'a>> {
        if depth > 3 {
            return Err((self.line(), "operands nested too deep".into()));
        }
        let first = self.primary(depth)?;
        if self.accept('|') {
            let second = self.primary(depth + 1)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn list(&mut self, close: char, depth: u32) -> Parsed<Vec<Operand<'a>>> {
        let mut out = Vec::new();
        if self.accept(close) {
            return Ok(out);
        }
        loop {
            out.push(self.operand(depth + 1)?);
            if !self.accept(',') {
                break;
            }
        }
        self.expect(close)?;
        Ok(out)
    }

    fn primary(&mut self, depth: u32) -> Parsed<Operand<'a>> {
        let line = self.line();
        if self.accept('{') {
            return Ok(Operand::List(self.list('}', depth)?));
        }
        if self.accept('(') {
            return Ok(Operand::List(self.list(')', depth)?));
        }
        if self.accept('[') {
            return Ok(Operand::Address(self.list(']', depth)?));
        }
        if self.accept('!') {
            return Ok(Operand::Not(self.word("a predicate")?));
        }
        let negative = self.accept('-');
        let word = self.word("an operand")?;
        if let Some(n) = number(word) {
            return Ok(Operand::Number(if negative { negate(n) } else { n }));
        }
        if negative || word.starts_with(|c: char| c.is_ascii_digit()) {
            return Err((line, format!("`{}` is not a number", clip(word))));
        }
        let mut offset = 0i64;
        loop {
            let plus = self.accept('+');
            if !plus && self.peek() != Some(Token::Mark('-')) {
                break;
            }
            let minus = self.accept('-');
            let n = self.count("an offset")? as i64;
            offset = offset.wrapping_add(if minus { n.wrapping_neg() } else { n });
        }
        Ok(Operand::Name(word, offset))
    }
}

fn negate(n: Number) -> Number {
    match n {
        Number::Integer(v) => Number::Integer(v.wrapping_neg()),
        Number::Single(v) => Number::Single(v ^ 1 << 31),
        Number::Double(v) => Number::Double(v ^ 1 << 63),
        Number::Decimal(v) => Number::Decimal(-v),
    }
}

/// A literal, or `None` for a name.
fn number(word: &str) -> Option<Number> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let word = word.strip_suffix('U').unwrap_or(word);
    let digits = |from: usize, radix| u64::from_str_radix(word.get(from..)?, radix).ok();
    let b = word.as_bytes();
    match (b[0], b.get(1)) {
        (b'0', Some(b'f' | b'F')) if word.len() == 10 => {
            digits(2, 16).map(|v| Number::Single(v as u32))
        }
        (b'0', Some(b'd' | b'D')) if word.len() == 18 => digits(2, 16).map(Number::Double),
        (b'0', Some(b'x' | b'X')) => digits(2, 16).map(Number::Integer),
        (b'0', Some(b'b' | b'B')) => digits(2, 2).map(Number::Integer),
        _ if word.contains('.') => word.parse().ok().map(Number::Decimal),
        (b'0', Some(_)) => digits(1, 8).map(Number::Integer),
        _ => digits(0, 10).map(Number::Integer),
    }
}
