//! A checkpoint that comes from somewhere else: whether it is the model that it says it is, before anybody computes with it.

use std::collections::BTreeSet;
use std::fmt;

use farthing_base::tensors::TensorError;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::checkpoint::{check_shape, widen};
use crate::tensors::{found, found_float};
use crate::{Checkpoint, Error, Gpt, Result, STATE_PREFIX};

impl Checkpoint {
    /// Refuses a file that is not exactly the model of its configuration: each parameter there once, in its shape, as finite floats, and no
    /// other tensor but state. [`Checkpoint::open`] has compared the checksum by then, which whoever makes a file can make, too.
    ///
    /// # Errors
    /// [`Error::Twice`], [`Error::File`] when a parameter is missing, [`Error::ParameterShape`], [`Error::ElementType`], [`Error::Unknown`],
    /// [`Error::NotFinite`].
    ///
    /// # Cost
    /// Reads the weights once.
    pub fn check(&self) -> Result<()> {
        let (file, gpt) = (self.file(), Gpt::new(self.config().clone())?);
        let path = || file.path().to_owned();
        let names = names(file.header())
            .map_err(|e| TensorError::Header { path: path(), reason: e.to_string() })?;
        let mut seen = BTreeSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Error::Twice { path: path(), name: name.clone() });
        }
        let known: BTreeSet<&str> = gpt.params().iter().map(|spec| spec.name.as_str()).collect();
        let stranger = |name: &&String| {
            !(known.contains(name.as_str()) || name.starts_with(STATE_PREFIX) || *name == METADATA)
        };
        for spec in gpt.params() {
            check_shape(file, &spec.name, found(file, &spec.name)?.1, spec.shape)?;
            found_float(file, &spec.name)?;
        }
        if let Some(name) = names.iter().find(stranger) {
            return Err(Error::Unknown { path: path(), name: name.clone() });
        }
        for spec in gpt.params() {
            let width = found_float(file, &spec.name)?.0.bytes();
            let mut values = file.bytes(&spec.name)?.chunks_exact(width).map(widen);
            if let Some(index) = values.position(|value| !value.is_finite()) {
                let at = &file.bytes(&spec.name)?[index * width..(index + 1) * width];
                let name = spec.name.clone();
                return Err(Error::NotFinite { path: path(), name, index, value: widen(at) });
            }
        }
        Ok(())
    }
}

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// The keys of a JSON object, in its order, each as often as it stands there.
fn names(header: &[u8]) -> serde_json::Result<Vec<String>> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, IgnoredAny)) = map.next_entry()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(header);
    let keys = reader.deserialize_map(Keys)?;
    reader.end()?;
    Ok(keys)
}
