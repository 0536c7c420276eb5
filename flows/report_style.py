"""The report's style sheet: one palette for light and one for dark pages, told apart by any eye.

Actions grow in contrast to the page from mild to strong, and fraud and genuine are vermilion and blue, which stay
apart with any of the common colour deficiencies. tests/flows/test_report.py computes the contrasts: text at least
4.5 to 1, graphics at least 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11).
"""

from __future__ import annotations

from typing import Final

LIGHT: Final = {
    "page": "#f4f6f7",
    "card": "#ffffff",
    "text": "#15212a",
    "muted": "#52606b",
    "grid": "#e3e8eb",
    "axis": "#8b98a2",
    "accent": "#0b6474",
    "approve": "#6a97ab",
    "challenge": "#b07d00",
    "review": "#c8511b",
    "decline": "#86123c",
    "other": "#6b5b95",
    "genuine": "#3b7ea8",
    "fraud": "#c5421f",
    "caught": "#0d7a66",
    "warn": "#8a3b00",
    "edge": "#8b98a28c",
}
DARK: Final = {
    "page": "#0e1418",
    "card": "#161f25",
    "text": "#e6edf1",
    "muted": "#9fb0bb",
    "grid": "#27333b",
    "axis": "#6b7c88",
    "accent": "#6cc7d6",
    "approve": "#4f7f96",
    "challenge": "#e3b341",
    "review": "#f0883e",
    "decline": "#ff6f91",
    "other": "#b3a1e0",
    "genuine": "#5aa9d6",
    "fraud": "#ff7b54",
    "caught": "#3fc1a5",
    "warn": "#ffb380",
    "edge": "#6b7c88a0",
}

_COLOURS: Final = ("approve", "challenge", "review", "decline", "other", "genuine", "fraud", "caught", "accent")

_RULES: Final = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
main,header,footer{max-width:1160px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
h1{font-size:clamp(26px,4vw,36px);line-height:1.15;margin:0 0 12px;letter-spacing:-.02em;overflow-wrap:anywhere}
h1 small{display:block;font-size:14px;font-weight:600;letter-spacing:.08em;text-transform:uppercase;
color:var(--accent);margin-bottom:8px}
h2{font-size:21px;line-height:1.25;letter-spacing:-.01em;margin:0 0 4px;scroll-margin-top:16px}
h3{font-size:15px;margin:0 0 2px}
p{margin:0 0 12px;max-width:76ch}
.lead{font-size:18px}
.note{color:var(--muted);font-size:14px}
.warn{color:var(--warn);font-weight:600}
a{color:var(--accent)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:16px 0 0;font-size:14px}
nav a{display:inline-block;padding:4px 0}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:2px}
section{margin:36px 0}
.card{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:20px 22px;margin-top:14px}
.pair{display:grid;gap:14px;grid-template-columns:minmax(0,1fr);margin-top:14px}
.pair>.card{margin-top:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:12px;margin:24px 0 0;padding:0}
.tile{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:14px 16px;display:flex;
flex-direction:column}
.tile dt{font-size:13.5px;font-weight:550;line-height:1.35;order:1}
.tile dd{margin:0}
.tile .big{font-size:26px;font-weight:650;letter-spacing:-.02em;line-height:1.2;order:0;overflow-wrap:anywhere}
.tile .small{font-size:12.5px;color:var(--muted);order:2;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:8px 0 0;padding:0;font-size:13px}
.key{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;vertical-align:-.5px;
background:var(--c)}
.key.round{border-radius:50%}
.key.bar{height:3px;vertical-align:3px;width:16px}
.key.dashed{height:0;border-top:2px dashed var(--muted);width:16px;vertical-align:3px;border-radius:0}
.key.ring{border-radius:50%;border:2.5px solid var(--accent)}
.key.stick{width:3px;background:var(--text)}
.axis-name{font-size:12px;color:var(--muted);margin:10px 0 0}
.axis-name.below{text-align:center;margin:0;max-width:none}
.plot+h3{margin-top:26px}
.plot{padding:10px 8px 28px 54px}
.plot svg.chart{height:210px}
.plot.tall svg.chart{height:300px}
.rows{padding:6px 0 0}
.rows.axed{padding-bottom:28px}
svg{display:block;overflow:visible}
svg text{font-size:12px;fill:var(--text)}
svg .tick,svg .value{fill:var(--muted)}
.y{text-anchor:end}
.x.mid{text-anchor:middle}
.end{text-anchor:end}
.name{font-weight:550}
.cut{display:none}
.halo{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.grid{stroke:var(--grid)}
.axis{stroke:var(--axis)}
.level{stroke:var(--muted);stroke-dasharray:5 4}
.hit{fill:transparent}
.col:hover .hit,.row:hover .hit{fill:var(--axis);fill-opacity:.16}
.line{fill:none;stroke:var(--accent);stroke-width:2.2px;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.area{fill:var(--c);fill-opacity:.3;stroke:var(--c);stroke-width:1.8px;vector-effect:non-scaling-stroke}
.dot{fill:var(--c);stroke:var(--card);stroke-width:2px}
.track{fill:var(--grid)}
.share{fill:var(--fraud)}
.faint rect:not(.hit):not(.track){fill-opacity:.5}
.range{fill:var(--accent);fill-opacity:.45}
.low{fill:var(--card);stroke:var(--accent);stroke-width:2.5px}
.high{fill:var(--accent);stroke:var(--accent);stroke-width:2.5px}
.mean{stroke:var(--text);stroke-width:2.5px}
details{margin-top:12px;font-size:14px}
.card>details:only-child{margin:-8px 0}
summary{cursor:pointer;color:var(--accent);padding:4px 0;width:fit-content}
.scroll{overflow:auto;max-height:440px;margin-top:8px;background:linear-gradient(90deg,var(--card) 45%,transparent)
 0 0/36px 100% no-repeat local,linear-gradient(270deg,var(--card) 45%,transparent) 100% 0/36px 100% no-repeat local,
linear-gradient(90deg,var(--edge),transparent) 0 0/7px 100% no-repeat,linear-gradient(270deg,var(--edge),transparent)
 100% 0/7px 100% no-repeat}
.card>.scroll:first-child{margin-top:-4px}
.scroll.whole{max-height:none}
table{border-collapse:collapse;width:100%;font-size:14px}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:6px 14px 6px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}
thead th{position:sticky;top:0;background:var(--card);color:var(--muted);font-size:12.5px;font-weight:600;
vertical-align:bottom}
tbody th{font-weight:550}
th.n,td.n{text-align:right;white-space:nowrap}
td.wide,th.wide{overflow-wrap:anywhere;min-width:90px}
td.prose{overflow-wrap:anywhere;min-width:240px}
tr>:last-child{padding-right:2px}
.badge{display:inline-block;font-size:11.5px;font-weight:600;border:1px solid var(--axis);border-radius:99px;
padding:0 7px;color:var(--muted);margin-left:6px;white-space:nowrap}
.empty{color:var(--muted);padding:22px 0;text-align:center;font-size:15px;margin:0 auto}
footer{margin-top:40px;padding-bottom:48px}
footer::before{content:"";display:block;border-top:1px solid var(--grid);margin-bottom:20px}
footer dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:14px;margin:8px 0 0}
footer dt{font-weight:600}
footer dd{margin:0;color:var(--muted)}
@media (min-width:900px){.pair{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
@media (max-width:1199px){.pair .minor{display:none}}
@media (max-width:899px){.minor{display:none}}
@media (max-width:639px){main,header,footer{padding-left:14px;padding-right:14px}.card{padding:16px 14px}
.rest{display:none}.cut{display:inline}.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
.tile .big{font-size:22px}
.tile:last-child:nth-child(odd){grid-column:span 2}
header{padding-top:24px}footer dl{grid-template-columns:1fr;gap:0}footer dd{margin-bottom:8px}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{.card,.tile{break-inside:avoid}nav{display:none}}
"""


def style_sheet() -> str:
    """All of the page's CSS."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in palette.items()) for palette in (LIGHT, DARK))
    colours = "".join(f".{name}{{--c:var(--{name});fill:var(--{name})}}" for name in _COLOURS)
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"{colours}{_RULES.replace(chr(10), '')}"
    )
