//! Site discovery on parts of real kernels (`tests/fixtures/text`, made by `tracer sites --capture`), and on text that
//! is broken in every way that we could think of.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tracer::text::{
    Blacklist, Cache, Capture, Confidence, Form, Kprobe, Offsets, Operation, Place, Reason, Register, Sites,
    Symbols, Text, TextError, find, find_in_part, table_for,
};

const KERNELS: [&str; 10] = [
    "6.12", "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "oracle",
];

fn capture(kernel: &str) -> Capture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/text/{kernel}.json.gz"));
    Capture::read(File::open(&path).unwrap()).unwrap()
}

fn sites(kernel: &str) -> Sites {
    capture(kernel).find().unwrap()
}

#[test]
fn every_kernel_has_the_sites_that_it_had() {
    for kernel in KERNELS {
        let sites = sites(kernel);
        assert!(
            sites.unrecognised.is_empty(),
            "{kernel}: {:?}",
            sites.unrecognised
        );
        insta::with_settings!({snapshot_path => "fixtures/text", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(format!("sites-{kernel}"), table_for(&sites));
        });
    }
}

#[test]
fn a_get_tells_where_it_succeeds_and_every_way_in_which_it_fails() {
    for kernel in ["6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"] {
        let sites = sites(kernel);
        let get = sites
            .sites
            .iter()
            .find(|site| site.function == "lock_vma_under_rcu" && site.operation == Operation::ReadTry);
        let get = get.unwrap_or_else(|| panic!("{kernel}: no get"));
        assert_eq!(get.confidence, Confidence::Certain, "{kernel}");
        assert_eq!(get.spot.kprobe, Kprobe::Yes, "{kernel}");
        let (after, confirmed) = (get.after.as_ref().unwrap(), get.confirmed.as_ref().unwrap());
        assert!(
            get.spot.address < after.address && after.vma.is_some() && confirmed.vma.is_some(),
            "{kernel}"
        );
        assert!(
            get.candidate.is_some(),
            "{kernel}: the VMA is what mas_walk returned"
        );
        let reasons: std::collections::BTreeSet<_> =
            get.failures.iter().flat_map(|failure| &failure.reasons).collect();
        for reason in [
            Reason::NoVma,
            Reason::WriteLocked,
            Reason::Detached,
            Reason::LimitOrWriter,
            Reason::AddressMoved,
        ] {
            assert!(reasons.contains(&reason), "{kernel}: {reason:?} is missing");
        }
        for put in get
            .failures
            .iter()
            .filter(|failure| failure.temporary)
            .filter_map(|failure| failure.put)
        {
            let put = sites.sites.iter().find(|site| site.spot.address == put).unwrap();
            assert!(!put.undoes.is_empty(), "{kernel}: {put:?}");
        }
    }
}

#[test]
fn a_put_that_ends_a_hold_is_not_one_that_takes_a_try_back() {
    let sites = sites("7.3");
    let puts: Vec<_> = sites
        .sites
        .iter()
        .filter(|site| site.function == "lock_vma_under_rcu" && site.operation == Operation::ReadPut)
        .collect();
    assert_eq!(puts.len(), 3);
    assert_eq!(puts.iter().filter(|put| put.only_undoes).count(), 2);
}

#[test]
fn calls_of_a_function_that_takes_no_probe_are_sites() {
    let sites = sites("7.3");
    let copy = sites
        .sites
        .iter()
        .find(|site| site.function == "vma_refcount_put")
        .unwrap();
    assert_eq!(copy.spot.kprobe, Kprobe::Notrace);
    for call in sites
        .sites
        .iter()
        .filter(|site| site.callee.as_deref() == Some("vma_refcount_put"))
    {
        assert!(matches!(call.form, Form::Call | Form::TailCall));
        assert_eq!(
            call.spot.vma,
            Some(Place::Register {
                register: Register::Rdi,
                displacement: 0
            })
        );
    }
}

/// A whole small kernel: one function that looks like a get, in a text full of padding.
fn small(limit: u32) -> (Text, Symbols, Offsets) {
    const BASE: u64 = 0xffff_ffff_8100_0000;
    let mut bytes = vec![0x90; 4096];
    let mut code = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0, 0];
    code.extend([0x8b, 0x97, 0x80, 0, 0, 0]); // mov edx, [rdi+80h]
    code.extend([0x85, 0xd2, 0x74, 0x18]); // test edx, edx; je out
    code.extend([0x81, 0xfa]); // cmp edx, limit
    code.extend(limit.to_le_bytes());
    code.extend([0x7d, 0x10]); // jge out
    code.extend([0x8d, 0x4a, 0x01, 0x89, 0xd0]); // lea ecx, [rdx+1]; mov eax, edx
    code.extend([0xf0, 0x0f, 0xb1, 0x8f, 0x80, 0, 0, 0]); // lock cmpxchg [rdi+80h], ecx
    code.extend([0x75, 0x01, 0xc3, 0x31, 0xc0, 0xc3]); // jne out; ret; out: xor eax, eax; ret
    bytes[256..256 + code.len()].copy_from_slice(&code);
    let symbols = format!(
        "{BASE:016x} T _text\n{BASE:016x} T _stext\n{:016x} t first\n{:016x} t get\n{:016x} t last\n{:016x} T _etext\n",
        BASE + 16,
        BASE + 256,
        BASE + 512,
        BASE + 4096
    );
    let offsets = Offsets {
        vm_refcnt: Some(128),
        vm_mm: 16,
        vm_end: 8,
        vm_lock_seq: 40,
        ..Offsets::default()
    };
    (
        Text::from_pieces([(BASE, bytes)]),
        Symbols::parse(symbols.as_bytes()).unwrap(),
        offsets,
    )
}

#[test]
fn only_the_limit_of_readers_makes_a_get() {
    let (text, symbols, offsets) = small(0x3fff_ffff);
    let sites = find(&text, &symbols, &offsets, None).unwrap();
    assert_eq!(sites.sites.len(), 1);
    assert_eq!(sites.sites[0].operation, Operation::ReadLocked);
    assert_eq!(
        sites.sites[0].spot.text_offset,
        Some(sites.sites[0].spot.address - symbols.text().unwrap())
    );
    // Another object's count at the same offset.
    let (text, symbols, offsets) = small(0x7fff_ffff);
    assert!(find(&text, &symbols, &offsets, None).unwrap().sites.is_empty());
}

#[test]
fn a_get_under_somebodys_probe_and_on_one_processor_is_still_a_get() {
    for prefix in [0xcc, 0x3e] {
        let (text, symbols, offsets) = small(0x3fff_ffff);
        let (base, bytes) = text
            .pieces()
            .map(|(at, bytes)| (at, bytes.to_vec()))
            .next()
            .unwrap();
        let mut patched = bytes;
        let at = patched
            .windows(3)
            .position(|three| three == [0xf0, 0x0f, 0xb1])
            .unwrap();
        patched[at] = prefix;
        let sites = find(&Text::from_pieces([(base, patched)]), &symbols, &offsets, None).unwrap();
        assert_eq!(sites.sites.len(), 1, "{prefix:#x}");
        assert_eq!(
            sites.notes.len(),
            usize::from(prefix == 0xcc),
            "{:?}",
            sites.notes
        );
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (text, symbols, offsets) = small(0x3fff_ffff);
    // Type information of another kernel.
    let other = Offsets {
        vm_refcnt: Some(192),
        ..offsets
    };
    assert!(matches!(
        find(&text, &symbols, &other, None),
        Err(TextError::Layout { .. })
    ));
    // Symbols of another kernel, or of another boot.
    let moved = "ffffffff91000000 T _text\nffffffff91000000 T _stext\nffffffff91000100 t get\nffffffff91001000 T _etext\n";
    let moved = Symbols::parse(moved.as_bytes()).unwrap();
    assert!(matches!(
        find(&text, &moved, &offsets, None),
        Err(TextError::Outside { .. })
    ));
    // Text that is none.
    let noise = Text::from_pieces([(
        symbols.text().unwrap(),
        (0..4096_u32).map(|i| (i * 7 % 131) as u8 | 0x41).collect(),
    )]);
    assert!(matches!(
        find(&noise, &symbols, &offsets, None),
        Err(TextError::NotFunctions { .. })
    ));
}

#[test]
fn other_offsets_find_nothing_rather_than_something_wrong() {
    let mut capture = capture("7.3");
    capture.offsets.vm_refcnt = Some(64);
    match capture.find() {
        Err(TextError::Layout { .. }) => {}
        Ok(sites) => assert!(
            sites
                .sites
                .iter()
                .all(|site| site.confidence == Confidence::Likely),
            "{:?}",
            sites.sites
        ),
        Err(error) => panic!("{error}"),
    }
}

/// A vmlinux with one segment.
fn elf(content: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1;
    elf[68] = 5;
    elf[72] = 120;
    elf[80..88].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
    elf[96..104].copy_from_slice(&(content.len() as u64).to_le_bytes());
    elf.extend_from_slice(content);
    elf
}

fn boot_image(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(payload);
    image
}

fn images() -> Vec<(&'static str, Vec<u8>)> {
    let elf = elf(&[0x90; 5000]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&elf).unwrap();
    let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
    let block = lz4_flex::block::compress(&elf);
    lz4.extend((block.len() as u32).to_le_bytes());
    lz4.extend(block);
    lz4.extend((elf.len() as u32).to_le_bytes());
    let zstd = ruzstd::encoding::compress_to_vec(elf.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    vec![
        ("vmlinux", elf),
        ("gzip", boot_image(&gzip.finish().unwrap())),
        ("lz4", boot_image(&lz4)),
        ("zstd", boot_image(&zstd)),
    ]
}

#[test]
fn images_of_every_kind_are_unpacked_and_cut_short_are_errors() {
    for (kind, image) in images() {
        let text = Text::from_image(&image).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(text.len(), 5000, "{kind}");
        for cut in (0..image.len() - 8).step_by(7) {
            // A packed text may end early without anybody noticing; but never whole, and never a panic.
            if let Ok(text) = Text::from_image(&image[..cut]) {
                assert!(text.len() <= 5000, "{kind} cut at {cut}");
            }
        }
        assert!(Text::from_image(&image[..image.len() / 2]).is_err(), "{kind}");
    }
    assert!(matches!(Text::from_image(b"BZh"), Err(TextError::Broken { .. })));
    assert!(matches!(
        Text::from_image(&boot_image(b"BZh9")),
        Err(TextError::UnknownPacking { method: "bzip2" })
    ));
}

#[test]
fn a_kernel_that_refuses_says_so() {
    let (_, symbols, _) = small(0x3fff_ffff);
    let missing = Text::from_kcore(Path::new("/nonexistent/kcore"), &symbols);
    assert!(matches!(missing, Err(TextError::Missing { .. })));
    let empty = tempdir().join("kcore");
    std::fs::write(&empty, b"\x7fELF").unwrap();
    assert!(Text::from_kcore(&empty, &symbols).is_err());
}

fn tempdir() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "text-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn the_cache_gives_back_what_it_was_given_and_ignores_everything_else() {
    let folder = tempdir();
    let cache = Cache::at(&folder);
    let sites = sites("7.3");
    assert_eq!(cache.load("00ff"), Ok(None));
    cache.store("00ff", &sites).unwrap();
    assert_eq!(cache.load("00ff"), Ok(Some(sites.clone())));
    // A key that is none leads to no file.
    cache.store("../x", &sites).unwrap();
    assert_eq!(cache.load("../x"), Ok(None));
    let path = folder.join("sites-00ff.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::copy(&path, folder.join("sites-1234.json")).unwrap();
    assert!(cache.load("1234").unwrap_err().contains("of another kernel"));
    for at in [0, 14, 20, 40, whole.len() / 2, whole.len() - 1] {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        std::fs::write(&path, &broken).unwrap();
        assert!(cache.load("00ff").is_err(), "changed at {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(cache.load("00ff").is_err(), "cut at {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(cache.load("00ff").unwrap_err().contains("others can write"));
    std::fs::remove_dir_all(&folder).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn changed_text_never_panics(
        kernel in 0..KERNELS.len(),
        changes in prop::collection::vec((any::<u32>(), any::<u8>()), 1..200),
    ) {
        let capture = capture(KERNELS[kernel]);
        let text = capture.text();
        let mut pieces: Vec<(u64, Vec<u8>)> = text.pieces().map(|(at, bytes)| (at, bytes.to_vec())).collect();
        let count = pieces.len();
        for (place, byte) in changes {
            let piece = &mut pieces[place as usize % count].1;
            let at = place as usize / count % piece.len();
            piece[at] = byte;
        }
        let _ = find_in_part(&Text::from_pieces(pieces), &capture.symbols().unwrap(), &capture.offsets, None);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000), offset in 0_u32..200) {
        let (_, symbols, offsets) = small(0);
        let offsets = Offsets { vm_refcnt: Some(offset), ..offsets };
        let text = Text::from_pieces([(symbols.text().unwrap(), bytes.clone())]);
        let _ = find_in_part(&text, &symbols, &offsets, None);
        let _ = Text::from_image(&bytes);
        let _ = Text::from_image(&boot_image(&bytes));
        let _ = Symbols::parse(&bytes);
        let _ = tracer::text::build_id(&bytes);
        let _ = Blacklist::parse(&String::from_utf8_lossy(&bytes));
        let _ = Capture::read(bytes.as_slice());
    }
}
