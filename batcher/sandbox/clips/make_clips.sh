#!/bin/sh
# Draws the clips that the sandbox serves as videos. Needs ffmpeg with libx264.
# Two seconds each, 320x180, H.264 baseline in a faststart MP4: plays everywhere, some tens of KB.
# Usage: sh make_clips.sh [DIRECTORY]
set -eu

into=${1:-$(dirname "$0")}

clip() { # NAME CRF FILTERGRAPH
    ffmpeg -hide_banner -loglevel error -y -f lavfi -i "$3" -t 2 -an \
        -map_metadata -1 -fflags +bitexact -flags:v +bitexact \
        -c:v libx264 -profile:v baseline -preset veryslow -crf "$2" -pix_fmt yuv420p \
        -movflags +faststart "$into/$1.mp4"
}

clip gradients 24 'gradients=s=320x180:r=24:n=4:c0=0x0b3954:c1=0xff6663:c2=0xbfd7ea:c3=0xe0ff4f:speed=0.03:seed=7'
clip test-pattern 30 'testsrc2=s=320x180:r=24'
clip mandelbrot 33 'mandelbrot=s=320x180:r=24:end_scale=0.02:end_pts=60:maxiter=300'
clip life 31 'life=s=80x45:r=12:mold=8:seed=11:ratio=0.3:death_color=0x7a1fa2:life_color=0xfff176:mold_color=0x102027,scale=320:180:flags=neighbor'
clip ripples 26 "nullsrc=s=320x180:r=24,format=gray,geq=lum='128+100*sin(hypot(X-160-60*sin(PI*T)\\,Y-90)/7-6*T)',format=rgb24,colorchannelmixer=rr=0.2:gg=0.7:bb=1"
clip orbits 26 "color=c=0x1d3557:s=320x180:r=24,format=rgb24,geq=r='if(lt(hypot(X-160-90*cos(PI*T)\\,Y-90-50*sin(PI*T))\\,24)\\,230\\,29)':g='if(lt(hypot(X-160+90*cos(PI*T)\\,Y-90-50*sin(PI*T))\\,18)\\,220\\,53)':b='if(lt(hypot(X-160-70*sin(PI*T)\\,Y-90)\\,30)\\,240\\,87)'"
