/*
 * What a driver of the edu device does, on a bare machine: finds it on the PCI bus, gives it an
 * address, reads its registers, has it compute, receives its interrupts (INTx and MSI), has it do
 * DMA both ways. Each check is a line on the debug console (port 0xe9), "ok NAME VALUE" or
 * "not ok NAME VALUE expected VALUE" (hexadecimal); lines that begin with "# " are for people; the
 * last line is "done", and the machine is left through isa-debug-exit (port 0xf4): QEMU exits with
 * 33 if all was right, with 35 if not.
 *
 * For QEMU's -M pc with -bios: no firmware is there but this. The register map is that of QEMU's
 * docs/specs/edu.rst.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

/* --- the machine ------------------------------------------------------------------------- */

static inline void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline void outl(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline u32 inl(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void *memory(u32 address) { return (void *)address; }
static volatile u32 *word(u32 address) { return memory(address); }

/* --- lines ------------------------------------------------------------------------------- */

static u32 failures;
static const char *about; /* stands before the names of checks, if there is one */

static void put(const char *text)
{
    while (*text)
        outb(0xe9, (u8)*text++);
}

static void put_hex(u32 value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        outb(0xe9, (u8)"0123456789abcdef"[value >> shift & 15]);
}

static void leave(void)
{
    put("done\n");
    outb(0xf4, failures ? 17 : 16);
    for (;;)
        __asm__ volatile("cli; hlt");
}

static int check(const char *name, u32 value, u32 expected)
{
    put(value == expected ? "ok " : "not ok ");
    if (about)
        put(about), put("-");
    put(name);
    put(" ");
    put_hex(value);
    if (value != expected) {
        put(" expected ");
        put_hex(expected);
        failures++;
    }
    put("\n");
    return value == expected;
}

/* --- time: the interval timer's channel 2, polled ---------------------------------------- */

static void wait_10_ms(void)
{
    const u32 ticks = 11932; /* of 1.193182 MHz */
    outb(0x61, (inb(0x61) & ~3) | 1);
    outb(0x43, 0xb0); /* channel 2, both bytes, mode 0 */
    outb(0x42, ticks & 0xff);
    outb(0x42, ticks >> 8);
    while (!(inb(0x61) & 0x20))
        __asm__ volatile("pause");
}

/* --- PCI, configuration mechanism 1 ------------------------------------------------------ */

enum { COMMAND = 0x04, CLASS = 0x08, BAR0 = 0x10, CAPABILITIES = 0x34, PIN = 0x3c };

static u32 config_read(u32 device, u32 offset)
{
    outl(0xcf8, 0x80000000 | device << 11 | (offset & ~3u));
    return inl(0xcfc);
}

static void config_write(u32 device, u32 offset, u32 value)
{
    outl(0xcf8, 0x80000000 | device << 11 | (offset & ~3u));
    outl(0xcfc, value);
}

static u32 find_capability(u32 device, u32 id)
{
    if (!(config_read(device, COMMAND) & 1u << 20))
        return 0;
    u32 at = config_read(device, CAPABILITIES) & 0xfc;
    for (u32 left = 48; at && left; left--) {
        u32 head = config_read(device, at);
        if ((head & 0xff) == id)
            return at;
        at = head >> 8 & 0xfc;
    }
    return 0;
}

/* --- interrupts -------------------------------------------------------------------------- */

enum { LINE = 11, LINE_VECTOR = 0x20 + LINE, MSI_VECTOR = 0x40, SPURIOUS_VECTOR = 0xff };
enum { LOCAL_APIC = 0xfee00000, APIC_EOI = 0xb0, APIC_SPURIOUS = 0xf0, APIC_LINT0 = 0x350 };
enum { RAISE = 0x60, ACKNOWLEDGE = 0x64, RAISED = 0x24 };

struct frame;
static struct gate { u16 low, selector, kind, high; } gates[256];
static volatile u32 by_line, by_message, causes; /* how many came which way; their causes, or'ed */
static volatile u32 empty; /* interrupts with no cause: a level may be seen once more than it was set */
static u32 edu; /* where its registers are */

static void serve(volatile u32 *count)
{
    u32 raised = *word(edu + RAISED);
    if (!raised) {
        empty++;
        return;
    }
    *word(edu + ACKNOWLEDGE) = raised;
    causes |= raised;
    ++*count;
}

__attribute__((interrupt)) static void on_line(struct frame *frame)
{
    (void)frame;
    serve(&by_line);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

__attribute__((interrupt)) static void on_message(struct frame *frame)
{
    (void)frame;
    serve(&by_message);
    *word(LOCAL_APIC + APIC_EOI) = 0;
}

__attribute__((interrupt)) static void on_nothing(struct frame *frame) { (void)frame; }

__attribute__((interrupt)) static void on_fault(struct frame *frame)
{
    (void)frame;
    failures++;
    put("not ok fault\n");
    leave();
}

static void set_gate(u32 vector, void (*handler)(struct frame *))
{
    u32 at = (u32)handler;
    gates[vector] = (struct gate){(u16)at, 0x08, 0x8e00, (u16)(at >> 16)};
}

static void set_up_interrupts(void)
{
    for (u32 vector = 0; vector < 256; vector++)
        set_gate(vector, vector < 32 ? on_fault : on_nothing);
    set_gate(LINE_VECTOR, on_line);
    set_gate(MSI_VECTOR, on_message);
    struct __attribute__((packed)) { u16 limit; u32 base; } pointer = {sizeof gates - 1, (u32)gates};
    __asm__ volatile("lidt %0" ::"m"(pointer));

    /* The two 8259: vectors 0x20 to 0x2f, all masked but the cascade and the line. */
    outb(0x20, 0x11), outb(0xa0, 0x11);
    outb(0x21, 0x20), outb(0xa1, 0x28);
    outb(0x21, 4), outb(0xa1, 2);
    outb(0x21, 1), outb(0xa1, 1);
    outb(0x21, (u8)~4), outb(0xa1, (u8) ~(1 << (LINE - 8)));
    outb(0x4d1, 1 << (LINE - 8)); /* by level, as PCI is */
    config_write(1, 0x60, LINE * 0x01010101u); /* PIIX: every PCI line to this one */

    *word(LOCAL_APIC + APIC_LINT0) = 0x700; /* what the 8259 say comes through */
    *word(LOCAL_APIC + APIC_SPURIOUS) = 0x100 | SPURIOUS_VECTOR;
    __asm__ volatile("sti");
}

/* Waits for an interrupt that `causes` shows; for 5 seconds at most. */
static void wait_for(u32 cause)
{
    for (int left = 500; left && !(causes & cause); left--)
        wait_10_ms();
}

/* --- the device -------------------------------------------------------------------------- */

enum { IDENTIFICATION = 0, LIVENESS = 4, FACTORIAL = 8, STATUS = 0x20 };
enum { DMA_SOURCE = 0x80, DMA_TARGET = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98 };
enum { COMPUTING = 1, INTERRUPT_WHEN_DONE = 0x80 }; /* of STATUS */
enum { GO = 1, TO_RAM = 2, INTERRUPT = 4 };         /* of DMA_COMMAND */
enum { BY_HAND = 0x5a, BY_FACTORIAL = 1, BY_DMA = 0x100 };
enum { BUFFER = 0x40000, BUFFER_SIZE = 4096 }; /* the device's own, as DMA addresses it */

static void finish(u32 offset, u32 busy)
{
    for (int left = 500; left && *word(edu + offset) & busy; left--)
        wait_10_ms();
}

static void dma(u32 source, u32 target, u32 count, u32 command)
{
    *word(edu + DMA_SOURCE) = source;
    *word(edu + DMA_TARGET) = target;
    *word(edu + DMA_COUNT) = count;
    *word(edu + DMA_COMMAND) = command | GO;
    finish(DMA_COMMAND, GO);
}

static u8 pattern(u32 at, u32 seed) { return (u8)(at * 7 + (at >> 8) * 13 + seed); }

/* RAM -> device -> another place in RAM: all bytes come back, and none beside them is touched. */
static void check_dma(const char *name, u32 from, u32 to, u32 count, u32 seed)
{
    u8 *source = memory(from), *target = memory(to);
    for (u32 at = 0; at < count; at++)
        source[at] = pattern(at, seed);
    for (u32 at = 0; at < count + 32; at++)
        target[at - 16] = 0xa5;
    dma(from, BUFFER, count, 0);
    dma(BUFFER, to, count, TO_RAM);
    u32 wrong = 0;
    for (u32 at = 0; at < count; at++)
        wrong += target[at] != pattern(at, seed);
    for (u32 at = 0; at < 16; at++)
        wrong += target[at - 16] != 0xa5, wrong += target[count + at] != 0xa5;
    check(name, wrong, 0);
}

/* Each of the device's three reasons for an interrupt, once: they come this way and no other. */
static void check_interrupts(const char *name, volatile u32 *way)
{
    about = name;
    by_line = by_message = 0;

    causes = 0;
    *word(edu + RAISE) = BY_HAND;
    wait_for(BY_HAND);
    check("by-hand", causes, BY_HAND);

    causes = 0;
    *word(edu + STATUS) = INTERRUPT_WHEN_DONE;
    *word(edu + FACTORIAL) = 10;
    wait_for(BY_FACTORIAL);
    *word(edu + STATUS) = 0;
    check("by-factorial", causes, BY_FACTORIAL);
    check("factorial", *word(edu + FACTORIAL), 3628800);

    causes = 0;
    dma(BUFFER, 0x300000, 64, TO_RAM | INTERRUPT);
    wait_for(BY_DMA);
    check("by-dma", causes, BY_DMA);

    check("this-way", *way, 3);
    check("in-all", by_line + by_message, 3);
    check("none-left", *word(edu + RAISED), 0);
    about = 0;
}

void main(void)
{
    u32 device = 0;
    while (device < 32 && config_read(device, 0) != 0x11e81234)
        device++;
    put("# device ");
    put_hex(device);
    put("\n");
    if (!check("on-the-bus", device < 32, 1))
        leave();
    check("class-and-revision", config_read(device, CLASS), 0x00ff0010);
    check("interrupt-pin", config_read(device, PIN) >> 8 & 0xff, 1);

    config_write(device, BAR0, 0xffffffff);
    check("bar0-size", ~config_read(device, BAR0) + 1, 0x100000);
    edu = 0xe0000000;
    config_write(device, BAR0, edu);
    check("bar0-address", config_read(device, BAR0), edu);
    config_write(device, COMMAND, 6); /* memory, bus master */

    check("identification", *word(edu + IDENTIFICATION), 0x010000ed);
    *word(edu + LIVENESS) = 0x12345678;
    check("liveness", *word(edu + LIVENESS), ~0x12345678u);
    *word(edu + FACTORIAL) = 12;
    finish(STATUS, COMPUTING);
    check("factorial", *word(edu + FACTORIAL), 479001600);

    check_dma("dma-page", 0x100000, 0x200000, BUFFER_SIZE, 1);
    check_dma("dma-odd", 0x90003, 0x345679, 1021, 2);
    check_dma("dma-one-byte", 0x3fffff, 0x3ffff7e, 1, 3);

    set_up_interrupts();
    check_interrupts("intx", &by_line);

    u32 msi = find_capability(device, 5);
    if (check("msi-capability", msi != 0, 1)) {
        u32 control = config_read(device, msi);
        int wide = control >> 23 & 1;
        config_write(device, msi + 4, LOCAL_APIC);
        if (wide)
            config_write(device, msi + 8, 0);
        config_write(device, msi + (wide ? 12 : 8), MSI_VECTOR);
        config_write(device, msi, control | 1u << 16);
        check_interrupts("msi", &by_message);

        config_write(device, msi, control & ~(1u << 16));
        check_interrupts("intx-again", &by_line);
    }
    put("# interrupts without a cause ");
    put_hex(empty);
    put("\n");
    leave();
}
