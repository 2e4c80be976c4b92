//! Which devices a container may use, on cgroup v2: there the kernel asks a small BPF program (`bpf(2)`,
//! `BPF_PROG_TYPE_CGROUP_DEVICE`) instead of keeping lists as v1 does. Here rules become instructions; nothing is touched.
//!
//! The program looks at the rules from the last to the first; the first that fits decides, and if none does, the answer
//! is no. Rules are the OCI specification's `linux.resources.devices`, followed by what every container gets.
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// Character devices of every container, as major and minor: null, zero, full, random, urandom, tty, console, ptmx, pts.
const USUAL: &[(i64, Option<i64>)] = &[
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// One instruction as `struct bpf_insn` has it: 8 bytes.
type Insn = [u8; 8];

// `linux/bpf_common.h` and `linux/bpf.h`: class, size or operation, source of the operand.
const LOAD_WORD: u8 = 0x61;
const MOV: u8 = 0xb7;
const MOV32_REG: u8 = 0xbc;
const AND32: u8 = 0x54;
const SHIFT_RIGHT32: u8 = 0x74;
const JUMP_NE: u8 = 0x55;
const JUMP_NE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;
// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const ACCESSES: [(char, i32); 3] = [('m', 1), ('r', 2), ('w', 4)];
const ANY_ACCESS: i32 = 7;
// Registers: the answer; the context, later scratch; what the question is about.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program that says yes and no as these rules do, all containers' devices besides.
pub(super) fn program(rules: &[LinuxDeviceCgroup]) -> Vec<u8> {
    // struct bpf_cgroup_dev_ctx { __u32 access_type, major, minor; }, access_type being access << 16 | type
    let mut all: Vec<Insn> = vec![
        insn(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        insn(AND32, TYPE, 0, 0, 0xffff),
        insn(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        insn(SHIFT_RIGHT32, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for (major, minor) in USUAL {
        all.extend(block(true, Some(CHARACTER), Some(*major), *minor, ANY_ACCESS));
    }
    // Making a node is no use of it.
    all.extend([BLOCK, CHARACTER].iter().flat_map(|kind| block(true, Some(*kind), None, None, 1)));
    for rule in rules.iter().rev() {
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            _ => None,
        };
        let access = rule.access().as_deref().unwrap_or("rwm");
        let access = ACCESSES.iter().filter(|(letter, _)| access.contains(*letter)).fold(0, |all, (_, bit)| all | bit);
        let block = block(rule.allow(), kind, rule.major(), rule.minor(), access);
        let always = block.len() == answer(false).len();
        all.extend(block);
        // The kernel refuses a program with instructions that are never reached.
        if always {
            return all.concat();
        }
    }
    all.extend(answer(false));
    all.concat()
}

/// Answers if everything fits, goes on behind itself if not.
fn block(allow: bool, kind: Option<i32>, major: Option<i64>, minor: Option<i64>, access: i32) -> Vec<Insn> {
    // A number no device can have fits nothing.
    let number = |n: i64| i32::try_from(n).unwrap_or(-1);
    let mut tests: Vec<Vec<Insn>> = Vec::new();
    let equal = |register: u8, value: i32| vec![insn(JUMP_NE, register, 0, 0, value)];
    tests.extend(kind.map(|kind| equal(TYPE, kind)));
    tests.extend((access != ANY_ACCESS).then(|| {
        vec![
            insn(MOV32_REG, CONTEXT, ACCESS, 0, 0),
            insn(AND32, CONTEXT, 0, 0, access),
            insn(JUMP_NE_REG, CONTEXT, ACCESS, 0, 0),
        ]
    }));
    // -1 is how the specification writes "any", besides leaving it out.
    tests.extend(major.filter(|n| *n != -1).map(|n| equal(MAJOR, number(n))));
    tests.extend(minor.filter(|n| *n != -1).map(|n| equal(MINOR, number(n))));
    let mut all: Vec<Insn> = tests.concat();
    all.extend(answer(allow));
    let end = all.len();
    for (at, one) in all.iter_mut().enumerate().filter(|(_, one)| [JUMP_NE, JUMP_NE_REG].contains(&one[0])) {
        // Jumps count from the instruction after them; a block is a few long.
        one[2] = (end - at - 1) as u8;
    }
    all
}

fn answer(allow: bool) -> [Insn; 2] {
    [insn(MOV, ANSWER, 0, 0, allow.into()), insn(EXIT, 0, 0, 0, 0)]
}

fn insn(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Insn {
    let ([o0, o1], [v0, v1, v2, v3]) = (offset.to_ne_bytes(), value.to_ne_bytes());
    [code, to | from << 4, o0, o1, v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the kernel would answer, by the few instructions that are used here.
    fn ask(program: &[u8], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0i64; 6];
        let mut at = 0;
        loop {
            let one: Insn = program[at * 8..at * 8 + 8].try_into().unwrap();
            let (to, from) = (usize::from(one[1] & 15), usize::from(one[1] >> 4));
            let offset = i16::from_ne_bytes([one[2], one[3]]);
            let value = i64::from(i32::from_ne_bytes(one[4..].try_into().unwrap()));
            at += 1;
            match one[0] {
                LOAD_WORD => registers[to] = context[offset as usize / 4].into(),
                MOV => registers[to] = value,
                MOV32_REG => registers[to] = registers[from],
                AND32 => registers[to] &= value,
                SHIFT_RIGHT32 => registers[to] >>= value,
                JUMP_NE if registers[to] != value => at += offset as usize,
                JUMP_NE_REG if registers[to] != registers[from] => at += offset as usize,
                JUMP_NE | JUMP_NE_REG => {}
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_usual_devices_and_what_the_rules_say() {
        let rules = |value| program(&serde_json::from_value::<Vec<LinuxDeviceCgroup>>(value).unwrap());
        let deny = rules(json!([{"allow": false, "access": "rwm"}]));
        assert!(ask(&deny, CHARACTER, 6, 1, 3), "null");
        assert!(ask(&deny, CHARACTER, 2, 136, 7), "any terminal");
        assert!(!ask(&deny, CHARACTER, 2, 1, 1), "mem");
        assert!(!ask(&deny, BLOCK, 2, 8, 0), "a disk");
        assert!(ask(&deny, BLOCK, 1, 8, 0), "a node for it may be made");
        let disk = json!([{"allow": false}, {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"}]);
        let disk = rules(disk);
        assert!(ask(&disk, BLOCK, 2, 8, 0) && !ask(&disk, BLOCK, 6, 8, 0) && !ask(&disk, BLOCK, 2, 8, 1));
        assert!(!ask(&disk, CHARACTER, 2, 8, 0));
        let more = block(true, Some(BLOCK), Some(8), Some(0), 2).len() * 8;
        assert_eq!(disk.len() - deny.len(), more, "nothing behind what answers everything");
        let all =
            rules(json!([{"allow": false}, {"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"}]));
        assert!(ask(&all, BLOCK, 7, 253, 5), "privileged");
    }
}
