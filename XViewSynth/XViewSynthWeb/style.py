"""Style of the page: dark, for reading rooms."""

STYLE = """
html, body { overflow: hidden; background: #121417; }
.xvs-page {
    position: fixed; inset: 0; display: flex; flex-direction: column; background: #121417; color: #e6e8eb;
    font-size: 14px;
}
.xvs-bar {
    display: flex; align-items: center; gap: 14px; padding: 6px 12px; min-height: 52px; background: #1b1f24;
}
.xvs-page .v-btn { text-transform: none; letter-spacing: .2px; }
.xvs-title { font-size: 18px; font-weight: 600; letter-spacing: .2px; }
.xvs-name { color: #9aa4b0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.xvs-uncertainty { display: flex; align-items: center; gap: 10px; }
.xvs-caption { color: #c3cad2; }
.xvs-legend { width: 130px; }
.xvs-ramp { height: 8px; border-radius: 2px; }
.xvs-ticks {
    display: flex; justify-content: space-between; font-size: 11px; color: #c3cad2; line-height: 14px;
}
.xvs-opacity { width: 130px; }
.xvs-window { width: 160px; max-width: 160px; }
.xvs-number {
    font-variant-numeric: tabular-nums; white-space: pre; min-width: 42px; text-align: right; color: #c3cad2;
}
.xvs-wide { min-width: 86px; }
.xvs-grid {
    flex: 1; min-height: 0; display: grid; gap: 2px; grid-template-columns: repeat(3, minmax(0, 1fr));
    grid-template-rows: auto minmax(0, 1fr) minmax(0, 1fr);
}
.xvs-slider {
    display: flex; align-items: center; gap: 10px; padding: 2px 10px; background: #1b1f24; border-top: 3px solid;
}
.xvs-plane { min-width: 62px; font-weight: 500; }
.xvs-view { position: relative; min-height: 0; background: #000; overflow: hidden; }
.xvs-edge, .xvs-mark, .xvs-label { position: absolute; pointer-events: none; user-select: none; }
.xvs-edge {
    color: #ffe9a8; font-weight: 600; font-size: 15px; text-shadow: 0 0 3px #000, 0 0 3px #000, 0 0 2px #000;
}
.xvs-left { left: 8px; top: 50%; transform: translateY(-50%); }
.xvs-right { right: 8px; top: 50%; transform: translateY(-50%); }
.xvs-top { top: 5px; left: 50%; transform: translateX(-50%); }
.xvs-bottom { bottom: 5px; left: 50%; transform: translateX(-50%); }
.xvs-label {
    top: 6px; left: 6px; min-width: 24px; padding: 0 5px; border-radius: 3px; text-align: center;
    font-weight: 600; color: #10131a;
}
.xvs-mark {
    right: 6px; bottom: 6px; padding: 1px 7px; border-radius: 3px; background: rgba(0, 0, 0, .62);
}
.xvs-plain { color: #fff; }
.xvs-observed { color: #73b8ff; }
.xvs-synthetic { color: #ff9933; }
.xvs-between { color: #c0c0c0; }
.xvs-offer {
    grid-area: 3 / 1 / 4 / 4; z-index: 5; display: flex; align-items: center; justify-content: center;
    background: #121417;
}
.xvs-card {
    width: min(560px, 92%); padding: 22px 26px; border: 1px solid #2c333b; border-radius: 8px;
    background: #1b1f24;
}
.xvs-headline { font-size: 18px; font-weight: 600; margin-bottom: 8px; }
.xvs-line { color: #c3cad2; margin-bottom: 14px; }
.xvs-controls { display: flex; align-items: center; gap: 14px; }
.xvs-end { justify-content: flex-end; margin-top: 14px; }
.xvs-progress { display: flex; justify-content: space-between; margin-bottom: 8px; }
.xvs-message { margin-top: 14px; color: #ffb066; }
.xvs-foot {
    display: flex; align-items: center; justify-content: space-between; gap: 24px; padding: 4px 12px;
    font-size: 12px; color: #9aa4b0; background: #1b1f24;
}
.xvs-result { color: #c3cad2; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.xvs-warning { color: #ffb066; white-space: nowrap; }
"""
