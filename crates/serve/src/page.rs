//! The page to try prompts: three files, none of which runs what stands inside another.

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
];

/// Whether a path is one of the page's.
pub(crate) fn is_page(path: &str) -> bool {
    FILES.iter().any(|(name, ..)| *name == path)
}

/// One of its files; an empty answer for any other path.
pub(crate) fn file(path: &str) -> Response<Body> {
    let found = FILES.iter().find(|(name, ..)| *name == path);
    let (_, kind, content) = found.copied().unwrap_or(("", "text/plain", ""));
    let mut response = Response::new(Body::from(content));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_inline_and_what_a_model_says_is_text() {
        let [(_, _, html), (_, _, script), _] = FILES;
        assert_eq!(html.matches("<script").count(), 1);
        assert!(html.contains("<script src=\"/page.js\" defer></script>"));
        for inline in
            ["style=", "onclick", "onload", "<style", "javascript:", "http://", "https://"]
        {
            assert!(!html.contains(inline), "{inline}");
        }
        for way in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", ".style"]
        {
            assert!(!script.contains(way), "{way}");
        }
        assert!(script.contains("textContent"));
    }
}
