//! What is wrong with a pipeline file, and how it looks on the screen.

use std::fmt::Write;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use farthing_base::names::did_you_mean;

use farthing_base::shown::with_stars;

use super::source::{Sources, Span};
use crate::hidden::Hidden;

/// One fault: what, where, and how to fix it.
pub(crate) struct Fault {
    title: String,
    /// The place to blame first, then the places that explain it.
    labels: Vec<(Span, String)>,
    help: Vec<String>,
}

impl Fault {
    pub(crate) fn new(title: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self { title: title.into(), labels: vec![(span, label.into())], help: Vec::new() }
    }

    #[must_use]
    pub(crate) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help.extend(help.into());
        self
    }

    pub(crate) fn span(&self) -> Span {
        self.labels[0].0.clone()
    }
}

/// Faults that one screen shows; nobody mends more at a time, and each costs a look at the whole file.
const MOST_SHOWN: usize = 50;

/// Every fault of one pipeline, with the texts to show them in.
pub(crate) struct Faults {
    pub(crate) sources: Sources,
    pub(crate) list: Vec<Fault>,
    pub(crate) hidden: Hidden,
}

impl Faults {
    /// The whole error screen, in the order of the file.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut list: Vec<&Fault> = self.list.iter().collect();
        list.sort_by_key(|f| f.span().start);
        let mut out = String::new();
        for fault in list.iter().take(MOST_SHOWN) {
            out.push_str(&self.render_one(fault, colour));
            out.push_str("\n\n");
        }
        let n = list.len();
        if n > MOST_SHOWN {
            let _ = write!(out, "the first {MOST_SHOWN} of ");
        }
        let file = self.sources.named().map_or("", |s| &s.name);
        out + &format!("{n} fault{} in {file}\n", if n == 1 { "" } else { "s" })
    }

    fn render_one(&self, fault: &Fault, colour: bool) -> String {
        let shown = |text: &String| self.hidden.shown(text);
        let fault = &Fault {
            title: shown(&fault.title),
            labels: fault.labels.iter().map(|(at, text)| (at.clone(), shown(text))).collect(),
            help: fault.help.iter().map(shown).collect(),
        };
        let mut group =
            Level::ERROR.primary_title(fault.title.as_str()).elements(self.snippets(fault));
        for help in &fault.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    /// A source as it is quoted, every place where it was. The renderer spells control characters out, but for those of two bytes.
    fn quoted(&self, text: &str) -> String {
        let text = self.hidden.with_stars(text);
        with_stars(&text).replace(|c| ('\u{80}'..='\u{9f}').contains(&c), "¿")
    }

    /// A snippet per source, the blamed one first.
    fn snippets<'a>(
        &'a self,
        fault: &'a Fault,
    ) -> Vec<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let mut snippets: Vec<(usize, Snippet<'a, _>)> = Vec::new();
        for (i, (span, label)) in fault.labels.iter().enumerate() {
            let Some((index, local)) = self.sources.locate(span) else { continue };
            let Some(source) = self.sources.get(index) else { continue };
            let kind = if i == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let mut annotation = kind.span(local);
            if !label.is_empty() {
                annotation = annotation.label(label.as_str());
            }
            match snippets.iter().position(|(at, _)| *at == index) {
                Some(at) => {
                    let (index, snippet) = snippets.remove(at);
                    snippets.insert(at, (index, snippet.annotation(annotation)));
                }
                None => {
                    let snippet =
                        Snippet::source(self.quoted(&source.text)).path(source.name.as_str());
                    snippets.push((index, snippet.annotation(annotation)));
                }
            }
        }
        snippets.into_iter().map(|(_, snippet)| snippet).collect()
    }
}

/// "did you mean …?", or the names there are.
pub(crate) fn suggest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
    what: &str,
) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let meant = did_you_mean(given, known.iter().copied());
    if meant.is_some() || known.is_empty() {
        return meant;
    }
    let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    Some(format!("{what}: {}", names.join(", ")))
}
