import preact from '@preact/preset-vite';
import { defineConfig } from 'vite';

// The build lands inside the Python package and is shipped in its wheel; nothing is fetched from elsewhere at run time.
export default defineConfig({
  plugins: [preact()],
  base: '/',
  build: {
    outDir: '../src/masche/api/static', emptyOutDir: true, assetsInlineLimit: 0, target: 'es2022', modulePreload: false,
    rollupOptions: { output: { entryFileNames: 'assets/[name].js', assetFileNames: 'assets/[name][extname]' } },
  },
});
