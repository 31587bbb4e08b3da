//! Decides who belongs to a job: whoever can prove that they know its secret, without revealing it. The proof is an HMAC-SHA256 over random numbers from both sides.

use ring::hmac::{self, HMAC_SHA256, Key, Tag};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{Error, Result};

/// Bytes of a number that a side draws.
pub(super) const NONCE: usize = 32;

/// Bytes of a proof.
pub(super) const PROOF: usize = 32;

/// What the ranks of a job share, and nobody else knows.
#[derive(Clone)]
pub struct Secret(Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The fewest characters of a secret.
    pub const SHORTEST: usize = 16;

    /// A secret that somebody has chosen.
    ///
    /// # Errors
    /// [`Error::Meeting`] for one that is shorter than [`Secret::SHORTEST`].
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() < Self::SHORTEST {
            return Err(Error::meeting(
                format!(
                    "the secret of the ranks has {} characters, expected {} at least",
                    text.len(),
                    Self::SHORTEST
                ),
                "draw one with `openssl rand -hex 32`, and give every rank the same in FARTHING_SECRET",
            ));
        }
        Ok(Self(Key::new(HMAC_SHA256, text.as_bytes())))
    }

    /// The text of a new one: 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Meeting`] where the system gives no random numbers.
    pub fn draw() -> Result<String> {
        let [high, low] = [random()?, random()?].map(u128::from_le_bytes);
        Ok(format!("{high:032x}{low:032x}"))
    }

    /// What proves to the other side that this one knows the secret.
    pub(super) fn prove(&self, claim: &Claim<'_>) -> Tag {
        hmac::sign(&self.0, &claim.bytes())
    }

    pub(super) fn accepts(&self, claim: &Claim<'_>, proof: &[u8]) -> bool {
        hmac::verify(&self.0, &claim.bytes(), proof).is_ok()
    }
}

/// Numbers that nobody can foresee.
pub(super) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        Error::meeting("the system gives no random numbers", "look at /dev/urandom")
    })?;
    Ok(bytes)
}

/// What is proved: which side of which connection one is.
pub(super) struct Claim<'a> {
    /// `join` or `lead`: the proof of one side is none of the other.
    pub(super) side: &'static str,
    pub(super) rank: u32,
    pub(super) ranks: u32,
    /// Drawn by the side that leads, and by the one that joins.
    pub(super) lead: &'a [u8; NONCE],
    pub(super) join: &'a [u8; NONCE],
}

impl Claim<'_> {
    fn bytes(&self) -> Vec<u8> {
        let numbers = [self.rank.to_le_bytes(), self.ranks.to_le_bytes()].concat();
        [b"farthing ranks 1: ", self.side.as_bytes(), &numbers, self.lead, self.join].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_one_for_its_own_claim_and_secret_alone() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let (lead, join) = ([1; NONCE], [2; NONCE]);
        let claim = |side, rank, lead| Claim { side, rank, ranks: 4, lead, join: &join };
        let proof = secret.prove(&claim("join", 2, &lead));
        assert_eq!(proof.as_ref().len(), PROOF);
        assert!(secret.accepts(&claim("join", 2, &lead), proof.as_ref()));
        for other in [claim("lead", 2, &lead), claim("join", 3, &lead), claim("join", 2, &join)] {
            assert!(!secret.accepts(&other, proof.as_ref()));
        }
        let another = Secret::new("0123456789abcdeF").unwrap();
        assert!(!another.accepts(&claim("join", 2, &lead), proof.as_ref()));
        assert!(!secret.accepts(&claim("join", 2, &lead), &proof.as_ref()[1..]));
    }

    #[test]
    fn a_secret_is_long_and_never_shown() {
        let short = Secret::new(" short ").unwrap_err().to_string();
        assert_eq!(short, "the secret of the ranks has 5 characters, expected 16 at least");
        let drawn = Secret::draw().unwrap();
        assert!(drawn.len() == 64 && drawn != Secret::draw().unwrap());
        assert_eq!(format!("{:?}", Secret::new(&drawn).unwrap()), "Secret");
    }
}
