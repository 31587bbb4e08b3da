//! [`Memory`](crate::Memory) and what every operation must refuse.

use super::case::Check;
use super::{Mismatch, Outcome};
use crate::{DType, Device, Error, Place, Result, Shape, Tensor};

/// [`Memory::alloc`](crate::Memory::alloc), [`write`](crate::Memory::write) and [`read`](crate::Memory::read): new memory
/// is zero, and bytes come back as they went, also through views of some rows.
///
/// # Errors
/// The first case that does not conform.
pub fn write_read(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "write_read");
    for dtype in [dev.compute_dtype(), dev.master_dtype(), DType::I32] {
        check.case(format!("{dtype:?}"));
        let (new, all, row) = round_trip(dev, dtype).map_err(|e| check.refused(e))?;
        if new.iter().any(|&x| x != 0.0) {
            return Err(check.wrong("new memory is not zero"));
        }
        if all != [1.0, 2.0, 3.0, 7.0, 8.0, 9.0] || row != [7.0, 8.0, 9.0] {
            return Err(check.wrong(format!("read {all:?} and {row:?}")));
        }
        let mut t = dev.alloc(dtype, Shape::from([2])).map_err(|e| check.refused(e))?;
        if dev.write(t.view_mut(), &[0; 3]).is_ok() || dev.read(&mut [0; 3], t.view()).is_ok() {
            return Err(check.wrong("3 bytes were taken for 2 elements"));
        }
        dev.synchronize().map_err(|e| check.refused(e))?;
    }
    Ok(check.worst)
}

fn round_trip(dev: &dyn Device, dtype: DType) -> Result<(Vec<f64>, Vec<f64>, Vec<f64>)> {
    let mut t = dev.alloc(dtype, Shape::from([2, 3]))?;
    let new = dev.read_f64(t.view())?;
    dev.write_f64(t.view_mut(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    dev.write_f64(t.view_mut().at(1)?, &[7.0, 8.0, 9.0])?;
    Ok((new, dev.read_f64(t.view())?, dev.read_f64(t.view().rows(1..2)?)?))
}

/// Wrong shapes, types and indices are refused with the error they ask for, and nothing is written.
///
/// Which arguments are wrong is decided by [`ops`](crate::ops), on every device; here is one case of each kind.
///
/// # Errors
/// The first case that does not conform.
pub fn refusals(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "refusals");
    check.case("setting up".into());
    let tensors = || -> Result<[Tensor; 5]> {
        Ok([
            dev.activations([2, 3])?,
            dev.activations([4, 3])?,
            dev.activations([2, 5])?,
            dev.alloc(DType::I32, Shape::from([2]))?,
            dev.master([2])?,
        ])
    };
    let [mut x, table, mut logits, mut ids, mut losses] =
        tensors().map_err(|e| check.refused(e))?;
    let refusal = |case: &'static str, got: Result<()>, fits: fn(&Error) -> bool| match got {
        Err(e) if fits(&e) => Ok(()),
        Err(e) => {
            let source = Box::new(e);
            Err(Mismatch::Refused { op: "refusals", case: case.into(), source })
        }
        Ok(()) => Err(Mismatch::Wrong { op: "refusals", case: case.into(), what: "taken".into() }),
    };
    refusal("a matrix of another width", dev.relu2(x.view_mut(), table.view()), |e| {
        matches!(e, Error::Shape { op: "relu2", arg: "x", .. })
    })?;
    refusal(
        "integers for floats",
        dev.rms_norm(x.view_mut(), losses.view_mut(), ids.view()),
        |e| matches!(e, Error::Unsupported { op: "rms_norm", .. }),
    )?;
    refusal(
        "a vocabulary wider than the logits",
        dev.cross_entropy(losses.view_mut(), logits.view_mut(), ids.view(), 6, 15.0, None),
        |e| matches!(e, Error::Argument { op: "cross_entropy", .. }),
    )?;
    if dev.place() != Place::Host {
        return Ok(check.worst); // a GPU does not read indices before it uses them: it clamps
    }
    dev.write_i32(ids.view_mut(), &[1, 4]).map_err(|e| check.refused(e))?;
    dev.fill(x.view_mut(), 7.0).map_err(|e| check.refused(e))?;
    refusal("an id outside the table", dev.embed(x.view_mut(), table.view(), ids.view()), |e| {
        matches!(e, Error::Index { op: "embed", index: 4, position: 1, rows: 4 })
    })?;
    if dev.read_f64(x.view()).map_err(|e| check.refused(e))?.iter().any(|&x| x != 7.0) {
        return Err(check.wrong("an id outside the table was refused after something was written"));
    }
    dev.write_i32(ids.view_mut(), &[-2, 4]).map_err(|e| check.refused(e))?;
    refusal(
        "a target below −1",
        dev.cross_entropy(losses.view_mut(), logits.view_mut(), ids.view(), 5, 15.0, None),
        |e| matches!(e, Error::Index { op: "cross_entropy", index: -2, position: 0, rows: 5 }),
    )?;
    Ok(check.worst)
}
